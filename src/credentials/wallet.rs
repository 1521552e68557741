//! The live parts of purses: one for each target and what was configured for it, whoever sends.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::runtime::Handle;

use super::oauth2::Keeper;
use super::{Credentials, Outward, Purse, Signer, SignerSettings};

/// Hands out purses. What did not change is the same for the next configuration.
pub struct Wallet {
    state: Mutex<State>,
    /// Where tokens are fetched.
    runtime: Handle,
}

#[derive(Default)]
struct State {
    /// By the target's setting, such as `clusters.home`.
    keepers: HashMap<Box<str>, Weak<Keeper>>,
    signer: Option<Arc<Signer>>,
}

/// How often a target's token was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refreshes {
    /// The target's setting, such as `clusters.home`.
    pub target: Box<str>,
    /// A token came.
    pub ok: u64,
    /// None came.
    pub failed: u64,
}

impl Wallet {
    /// An empty wallet; tokens are fetched on the current runtime.
    pub fn new() -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), runtime: Handle::current() })
    }

    /// From now on callers are named so.
    pub fn sign_by(&self, settings: Option<&SignerSettings>) {
        let mut state = self.lock();
        if state.signer.as_ref().map(|signer| signer.settings()) != settings {
            state.signer = settings.map(|settings| Arc::new(Signer::new(settings.clone())));
        }
    }

    /// What signs the names of callers, if anything.
    pub fn signer(&self) -> Option<Arc<Signer>> {
        self.lock().signer.clone()
    }

    /// The purse of the target whose setting is `target`, such as `clusters.home`.
    pub fn purse(&self, target: &str, outward: &Outward) -> Purse {
        let mut state = self.lock();
        let token = match &outward.credentials {
            Some(Credentials::OAuth2(settings)) => {
                let known = state.keepers.get(target).and_then(Weak::upgrade);
                let keeper = known.filter(|keeper| keeper.settings() == &**settings).unwrap_or_else(|| {
                    let _runtime = self.runtime.enter();
                    Keeper::begin(target, (**settings).clone())
                });
                state.keepers.retain(|_, keeper| keeper.strong_count() > 0);
                state.keepers.insert(target.into(), Arc::downgrade(&keeper));
                Some(keeper)
            }
            _ => None,
        };
        Purse::new(outward, token, state.signer.clone())
    }

    /// How often tokens were asked for, by target.
    pub fn refreshes(&self) -> Vec<Refreshes> {
        let state = self.lock();
        let live = state.keepers.iter().filter_map(|(target, keeper)| Some((target, keeper.upgrade()?)));
        live.map(|(target, keeper)| {
            let (ok, failed) = keeper.counts();
            Refreshes { target: target.clone(), ok, failed }
        })
        .collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
