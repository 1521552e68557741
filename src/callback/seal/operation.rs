//! What is inside a sealed operation token.

use std::borrow::Cow;
use std::fmt;

use percent_encoding::{AsciiSet, CONTROLS, percent_decode_str, utf8_percent_encode};

use super::codec::{Reader, Writer};

/// What would end or change a part of a [`TargetRef`]'s text.
const SPECIAL: AsciiSet = CONTROLS.add(b'%').add(b'/').add(b' ');

/// An operation as its handler knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// Where it was started.
    pub target: TargetRef,
    /// The handler's own token.
    pub token: String,
}

/// What an operation was started as, which its token is bound to. Service and operation are decoded: who cancels may
/// escape them otherwise than who started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bound<'a> {
    /// Name of the endpoint.
    pub endpoint: &'a str,
    /// Name of the service.
    pub service: Cow<'a, str>,
    /// Name of the operation.
    pub operation: Cow<'a, str>,
    /// Who started it. It is inside of the token, so that one opens also where nobody knows any more who that was.
    pub caller: Cow<'a, str>,
}

impl Bound<'_> {
    pub(super) fn context(&self) -> [&str; 3] {
        [self.endpoint, &self.service, &self.operation]
    }

    /// As tokens were bound before their content said who started their operation.
    pub(super) fn context_with_caller(&self) -> [&str; 4] {
        [self.endpoint, &self.service, &self.operation, &self.caller]
    }
}

/// A target by its name, which outlives the definition of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum TargetRef {
    /// Workers of a Temporal cluster.
    Worker {
        /// Name of the cluster.
        cluster: String,
        /// Namespace of the task queue.
        namespace: String,
        /// The task queue.
        task_queue: String,
    },
    /// A Nexus handler that is reached over HTTP.
    External {
        /// Its URL.
        url: String,
    },
    /// The gateways themselves, where the operation is parked under this name.
    Parked {
        /// Its name.
        id: String,
    },
}

impl Operation {
    /// The token of an operation that is parked: nobody else knows it yet.
    pub fn parked(id: String) -> Self {
        Self { target: TargetRef::Parked { id }, token: String::new() }
    }

    pub(in crate::callback) fn to_bytes(&self) -> Vec<u8> {
        self.written().into_bytes()
    }

    /// With who started it.
    pub(super) fn to_bytes_of(&self, caller: &str) -> Vec<u8> {
        let mut content = self.written();
        content.text(caller);
        content.into_bytes()
    }

    fn written(&self) -> Writer {
        let mut content = Writer::default();
        match &self.target {
            TargetRef::Worker { cluster, namespace, task_queue } => {
                content.number(0);
                content.text(cluster);
                content.text(namespace);
                content.text(task_queue);
            }
            TargetRef::External { url } => {
                content.number(1);
                content.text(url);
            }
            TargetRef::Parked { id } => {
                content.number(2);
                content.text(id);
            }
        }
        content.text(&self.token);
        content
    }

    pub(in crate::callback) fn from_bytes(content: &[u8]) -> Option<Self> {
        let mut content = Reader::new(content);
        let operation = Self::read(&mut content)?;
        content.end().then_some(operation)
    }

    /// Reads what [`to_bytes_of`](Self::to_bytes_of) wrote.
    pub(super) fn with_caller_from_bytes(content: &[u8]) -> Option<(Self, String)> {
        let mut content = Reader::new(content);
        let read = (Self::read(&mut content)?, content.text()?);
        content.end().then_some(read)
    }

    fn read(content: &mut Reader<'_>) -> Option<Self> {
        let target = match content.number()? {
            0 => {
                TargetRef::Worker { cluster: content.text()?, namespace: content.text()?, task_queue: content.text()? }
            }
            1 => TargetRef::External { url: content.text()? },
            2 => TargetRef::Parked { id: content.text()? },
            _ => return None,
        };
        Some(Self { target, token: content.text()? })
    }
}

/// `worker:CLUSTER/NAMESPACE/TASK_QUEUE` with escapes in each, `external:URL`, or `parked:ID`.
impl fmt::Display for TargetRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped = |text| utf8_percent_encode(text, &SPECIAL);
        match self {
            Self::Worker { cluster, namespace, task_queue } => {
                write!(f, "worker:{}/{}/{}", escaped(cluster), escaped(namespace), escaped(task_queue))
            }
            Self::External { url } => write!(f, "external:{url}"),
            Self::Parked { id } => write!(f, "parked:{id}"),
        }
    }
}

impl TargetRef {
    /// Reads what [`Display`](fmt::Display) wrote.
    pub fn parse(text: &str) -> Option<Self> {
        let unescaped = |part| percent_decode_str(part).decode_utf8().ok().map(Cow::into_owned);
        match text.split_once(':')? {
            ("external", url) => Some(Self::External { url: url.to_owned() }),
            ("parked", id) => Some(Self::Parked { id: id.to_owned() }),
            ("worker", path) => {
                let mut parts = path.split('/').map(unescaped);
                let (cluster, namespace, task_queue) = (parts.next()??, parts.next()??, parts.next()??);
                parts.next().is_none().then_some(Self::Worker { cluster, namespace, task_queue })
            }
            _ => None,
        }
    }
}
