//! Each fuzz target for some seconds, with any toolchain: inputs of the corpus, mutated at random.
//!
//! The seed is another one each time; `NEXUS_GATEWAY_SEED=7` replays one. `FUZZ_INPUTS=10000000` says how many inputs
//! each target gets however long that takes, `FUZZ_TARGET=path` names one; both are for `--release`. What fails is
//! printed whole, and belongs into the corpus.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

#[path = "support/fuzz_targets.rs"]
mod fuzz_targets;

use fuzz_targets::{TARGETS, Target};
use tokio::time::Instant;

/// How long inputs are made unless it is said how many.
const LASTS: Duration = Duration::from_secs(4);
/// Longest input in bytes, about: what is spliced in may exceed it once.
const LONGEST: usize = 16 << 10;
/// What parsers of several targets give a meaning to.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\r\n",
    b"\n",
    b"\t",
    b" ",
    b"/",
    b"//",
    b"..",
    b"%2f",
    b"%00",
    b"%",
    b"%zz",
    b"?",
    b"&",
    b"=",
    b"+",
    b"#",
    b"@",
    b":",
    b";",
    b",",
    b"<",
    b">",
    b"\"",
    b"\\",
    b"\\u0000",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"ms",
    b"h",
    b"ngw1.",
    b"${env:X}",
    b"- ",
    b"&a",
    b"*a",
    b"|\n",
    b"\xff",
    b"\xc3\x28",
    b"\xef\xbb\xbf",
    b"\xe2\x80\xa8",
    b"\x80\x00",
    b"\x7f\xff\xff\xff",
];

#[test]
fn every_target_holds_for_mutated_inputs() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let drawn = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.subsec_nanos().into());
    let seed: u64 = number("NEXUS_GATEWAY_SEED").unwrap_or_else(drawn);
    let until = number("FUZZ_INPUTS").map_or_else(|| Until::Time(Instant::now() + LASTS), Until::Inputs);
    let only = std::env::var("FUZZ_TARGET").ok();
    let wanted = |target: &&Target| only.as_ref().is_none_or(|only| only == target.name);
    // Side by side: they take the time of the slowest.
    std::thread::scope(|scope| {
        for target in TARGETS.iter().filter(wanted) {
            scope.spawn(move || fuzz(target, seed, until));
        }
    });
}

/// When a target has had enough.
#[derive(Clone, Copy)]
enum Until {
    Time(Instant),
    Inputs(u64),
}

impl Until {
    fn over(self, number: u64) -> bool {
        match self {
            Self::Time(time) => Instant::now() >= time,
            Self::Inputs(inputs) => number >= inputs,
        }
    }
}

fn fuzz(target: &Target, seed: u64, until: Until) {
    let corpus: Vec<Vec<u8>> = target.corpus().into_iter().map(|(_, input)| input).collect();
    let mut random = Random(seed);
    let mut number = 0;
    while !until.over(number) {
        let input = mutated(&corpus, &mut random);
        let held = catch_unwind(AssertUnwindSafe(|| (target.check)(&input)));
        assert!(
            held.is_ok(),
            "{} does not hold for input {number} of NEXUS_GATEWAY_SEED={seed}: \"{}\"",
            target.name,
            input.escape_ascii()
        );
        number += 1;
    }
    println!("NEXUS_GATEWAY_SEED={seed}: {number} inputs for {}", target.name);
}

/// An input of the corpus with one to eight things done to it.
fn mutated(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = random.one_of(corpus).clone();
    for _ in 0..=random.below(8) {
        mutate(&mut input, corpus, random);
        input.truncate(LONGEST);
    }
    input
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let part = at..input.len().min(at + 1 + random.below(32));
    match random.below(9) {
        0 | 1 if at < input.len() => input[at] ^= 1 << random.below(8),
        2 if at < input.len() => input[at] = random.byte(),
        3 => input.insert(at, random.byte()),
        4 => drop(input.drain(part)),
        5 => {
            let again = input[part].to_vec();
            insert(input, at, &again);
        }
        6 => insert(input, at, TOKENS[random.below(TOKENS.len())]),
        7 => {
            let other = random.one_of(corpus);
            let from = random.below(other.len() + 1);
            let to = other.len().min(from + random.below(64));
            insert(input, at, &other[from..to]);
        }
        _ => {
            // The beginning of one, the end of another.
            let other = random.one_of(corpus);
            input.truncate(at);
            input.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
    }
}

fn insert(input: &mut Vec<u8>, at: usize, piece: &[u8]) {
    input.splice(at..at, piece.iter().copied());
}

/// `SplitMix64` (Steele, Lea and Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not zero.
    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap_or_default()
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }

    fn one_of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}
