//! What kinds of addresses there are, and which of them anybody could reach without this gateway.
//!
//! From the IANA registries of special-purpose addresses (RFC 6890 and its updates). In doubt an address is not
//! public. What no address tells is left out: a network's own NAT64 prefix (RFC 6052 §2.2).

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Where a cloud answers whoever asks, credentials included; besides those in link-local ranges.
const METADATA_V4: [Ipv4Addr; 4] = [
    Ipv4Addr::new(169, 254, 169, 254),
    // Alibaba Cloud, Oracle Cloud's older one, Azure's.
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// Amazon's and Google's.
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

/// A kind of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The open Internet.
    Public,
    /// This machine.
    Loopback,
    /// No address, which some systems take for this machine.
    Unspecified,
    /// This link.
    LinkLocal,
    /// A cloud's metadata service.
    Metadata,
    /// A private network (RFC 1918, RFC 4193).
    Private,
    /// Carrier-grade NAT (RFC 6598).
    Shared,
    /// Benchmarks (RFC 2544).
    Benchmarking,
    /// Examples in documents.
    Documentation,
    /// Groups.
    Multicast,
    /// Everybody on the link.
    Broadcast,
    /// An IPv6 address with an IPv4 address within, in a scheme that nobody offers a service by.
    Transitional,
    /// For protocols, or for later.
    Reserved,
}

/// Whether the address is one that anybody on the Internet could connect to as well.
pub fn is_public(address: IpAddr) -> bool {
    Class::of(address) == Class::Public
}

impl Class {
    /// The kind of this address.
    pub fn of(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => of_v4(address),
            IpAddr::V6(address) => of_v6(address),
        }
    }
}

fn of_v4(address: Ipv4Addr) -> Class {
    if METADATA_V4.contains(&address) {
        return Class::Metadata;
    }
    match address.octets() {
        [0, ..] => Class::Unspecified,
        [127, ..] => Class::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Class::Private,
        [100, 64..=127, ..] => Class::Shared,
        [169, 254, ..] => Class::LinkLocal,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Class::Documentation,
        [198, 18..=19, ..] => Class::Benchmarking,
        [224..=239, ..] => Class::Multicast,
        [255, 255, 255, 255] => Class::Broadcast,
        // IETF protocols; the relays of 6to4, which are no more (RFC 7526); class E.
        [192, 0, 0, _] | [192, 88, 99, _] | [240..=255, ..] => Class::Reserved,
        _ => Class::Public,
    }
}

fn of_v6(address: Ipv6Addr) -> Class {
    if METADATA_V6.contains(&address) {
        return Class::Metadata;
    }
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Class::Unspecified,
        [0, 0, 0, 0, 0, 0, 0, 1] => Class::Loopback,
        // An IPv4 address in the socket interface, and one behind NAT64 (RFC 6052 §2.1): as good as what is within.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => of_v4(last_four(address)),
        // IPv4-compatible and SIIT, a network's own NAT64 (RFC 8215), Teredo, 6to4.
        [0, 0, 0, 0, 0 | 0xffff, 0, ..] | [0x64, 0xff9b, 1, ..] | [0x2001, 0, ..] | [0x2002, ..] => Class::Transitional,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Class::Documentation,
        [0x2001, 2, 0, ..] => Class::Benchmarking,
        [0x2001, 0..=0x1ff, ..] => Class::Reserved,
        [0x2000..=0x3fff, ..] => Class::Public,
        [0xfc00..=0xfdff, ..] => Class::Private,
        [0xfe80..=0xfebf, ..] => Class::LinkLocal,
        [0xff00..=0xffff, ..] => Class::Multicast,
        _ => Class::Reserved,
    }
}

fn last_four(address: Ipv6Addr) -> Ipv4Addr {
    let [.., a, b, c, d] = address.octets();
    Ipv4Addr::new(a, b, c, d)
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Public => "public",
            Self::Loopback => "loopback",
            Self::Unspecified => "unspecified",
            Self::LinkLocal => "link-local",
            Self::Metadata => "metadata",
            Self::Private => "private",
            Self::Shared => "shared (CGNAT)",
            Self::Benchmarking => "benchmarking",
            Self::Documentation => "documentation",
            Self::Multicast => "multicast",
            Self::Broadcast => "broadcast",
            Self::Transitional => "transitional IPv6",
            Self::Reserved => "reserved",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses_are_of_their_kind() {
        for (class, addresses) in [
            (
                Class::Public,
                "8.8.8.8 1.1.1.1 172.15.255.255 172.32.0.0 100.63.255.255 100.128.0.0 9.255.255.255 11.0.0.0",
            ),
            (
                Class::Public,
                "2606:4700::1111 2a00::1 3ffe::1 ::ffff:8.8.8.8 64:ff9b::8.8.8.8 2001:200::1 223.255.255.255",
            ),
            (Class::Loopback, "127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 64:ff9b::127.0.0.1"),
            (Class::Unspecified, "0.0.0.0 0.1.2.3 :: ::ffff:0.0.0.0"),
            (Class::LinkLocal, "169.254.0.1 169.254.170.2 fe80::1 febf::1 64:ff9b::a9fe:1"),
            (Class::Metadata, "169.254.169.254 fd00:ec2::254 fd20:ce::254 ::ffff:169.254.169.254 168.63.129.16"),
            (Class::Metadata, "100.100.100.200 192.0.0.192 64:ff9b::169.254.169.254"),
            (Class::Private, "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.1.1 fc00::1 fdff::1"),
            (Class::Private, "::ffff:10.0.0.1 64:ff9b::192.168.0.1"),
            (Class::Shared, "100.64.0.0 100.127.255.255"),
            (Class::Benchmarking, "198.18.0.1 198.19.255.255 2001:2::1"),
            (Class::Documentation, "192.0.2.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1"),
            (Class::Multicast, "224.0.0.1 239.255.255.255 ff02::1"),
            (Class::Broadcast, "255.255.255.255"),
            (Class::Reserved, "240.0.0.1 192.0.0.1 192.88.99.1 fec0::1 100::1 4000::1 2001:10::1 2001:1ff::1"),
            (Class::Transitional, "::127.0.0.1 ::10.0.0.1 2002:7f00:1:: 2002:a00:1:: 2001:0:a00:1::1 64:ff9b:1::a00:1"),
            (Class::Transitional, "::ffff:0:127.0.0.1 2001::1"),
        ] {
            for text in addresses.split(' ') {
                let address: IpAddr = text.parse().unwrap();
                assert_eq!(Class::of(address), class, "{text}");
                assert_eq!(is_public(address), class == Class::Public, "{text}");
            }
        }
    }

    proptest! {
        #[test]
        fn what_is_not_public_is_not_public_inside_an_ipv6_address(bits: u32) {
            let inner = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = inner.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            for outer in [
                inner.to_ipv6_mapped(),
                Ipv6Addr::new(0, 0, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 1, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 0, 0, 0, 0, 1),
                Ipv6Addr::new(0x2001, 0, 0, 0, 0, 0, !high, !low),
                Ipv6Addr::new(0x2001, 0, high, low, 0, 0, 0, 0),
            ] {
                prop_assert!(is_public(inner.into()) || !is_public(outer.into()), "{outer}");
            }
        }

        #[test]
        fn nothing_is_public_that_the_standard_library_knows_better(bits: u32, bits6: u128) {
            let four = Ipv4Addr::from_bits(bits);
            let special = four.is_private() || four.is_loopback() || four.is_link_local() || four.is_multicast()
                || four.is_broadcast() || four.is_documentation() || four.is_unspecified();
            prop_assert!(!(special && is_public(four.into())), "{four}");
            for six in [Ipv6Addr::from_bits(bits6), Ipv6Addr::from_bits(bits6 | 0xfc << 120)] {
                let special = six.is_loopback() || six.is_unspecified() || six.is_multicast()
                    || six.is_unique_local() || six.is_unicast_link_local();
                prop_assert!(!(special && is_public(six.into())), "{six}");
            }
        }
    }
}
