//! The PROXY protocol (HAProxy's proxy-protocol.txt, versions 1 and 2), by which a load balancer says whose connection it
//! passes on. It is read from listed addresses only, and required from them: whoever else sends one talks to SSH.
//!
//! [`missing`] and [`source`] take bytes; [`read`] performs them.

use ppp::{v1, v2};
use std::{net::IpAddr, time::Duration};
use thiserror::Error;
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};

/// How long a load balancer may take to say whose connection it is: the header is the first thing that it sends.
pub(super) const WITHIN: Duration = Duration::from_secs(5);

/// The signature of version 2.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The fixed part of a header of version 2.
const FIXED: usize = 16;

/// The longest header of version 1, with its line end.
const MAX_V1: usize = 107;

/// The longest header of version 2 that is read. Addresses take at most 216 bytes; the rest is for others to see.
const MAX_V2: usize = 2048;

/// Why there is no header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(super) enum ProxyError {
    #[error("no PROXY header came in time")]
    Timeout,
    #[error("it ended within the PROXY header")]
    Ended,
    #[error("the PROXY header is not one of version 1 or 2")]
    Format,
    #[error("the PROXY header is too long")]
    TooLong,
}

/// How many bytes are to be read next, at least one of which belongs to the header; none if it is whole.
fn missing(header: &[u8]) -> Result<Option<usize>, ProxyError> {
    let begins = |with: &[u8]| header.iter().zip(with).all(|(a, b)| a == b);
    if begins(SIGNATURE) && header.first() == SIGNATURE.first() {
        let Some([high, low]) = header.get(14..FIXED).and_then(|length| <[u8; 2]>::try_from(length).ok()) else {
            return Ok(Some(FIXED - header.len()));
        };
        let whole = FIXED + usize::from(u16::from_be_bytes([high, low]));
        if whole > MAX_V2 {
            return Err(ProxyError::TooLong);
        }
        return Ok(Some(whole - header.len()).filter(|more| *more > 0));
    }
    if !begins(b"PROXY ") {
        return Err(ProxyError::Format);
    }
    if header.ends_with(b"\r\n") {
        return Ok(None);
    }
    // "PROXY UNKNOWN\r\n" is the shortest; from there on, byte by byte, so that nothing of SSH is taken.
    match header.len() {
        0..14 => Ok(Some(14 - header.len())),
        14..MAX_V1 => Ok(Some(1)),
        _ => Err(ProxyError::TooLong),
    }
}

/// Whose connection it is; none if the load balancer speaks for itself, or does not know.
fn source(header: &[u8]) -> Result<Option<IpAddr>, ProxyError> {
    if header.first() == SIGNATURE.first() {
        let header = v2::Header::try_from(header).map_err(|_| ProxyError::Format)?;
        return match (header.command, header.addresses) {
            (v2::Command::Local, _) => Ok(None),
            (v2::Command::Proxy, v2::Addresses::IPv4(ip)) => Ok(Some(ip.source_address.into())),
            (v2::Command::Proxy, v2::Addresses::IPv6(ip)) => Ok(Some(ip.source_address.into())),
            (v2::Command::Proxy, v2::Addresses::Unspecified) => Ok(None),
            // Whose it is decides what it may: what cannot be compared with an address is not let in.
            (v2::Command::Proxy, v2::Addresses::Unix(_)) => Err(ProxyError::Format),
        };
    }
    match v1::Header::try_from(header).map_err(|_| ProxyError::Format)?.addresses {
        v1::Addresses::Tcp4(ip) => Ok(Some(ip.source_address.into())),
        v1::Addresses::Tcp6(ip) => Ok(Some(ip.source_address.into())),
        v1::Addresses::Unknown => Ok(None),
    }
}

/// Reads a header and nothing after it.
pub(super) async fn read(
    stream: &mut (impl AsyncRead + Unpin),
    within: Duration,
) -> Result<Option<IpAddr>, ProxyError> {
    let work = async {
        let mut header = Vec::new();
        while let Some(more) = missing(&header)? {
            let read = header.len();
            header.resize(read + more, 0);
            let count = stream.read(&mut header[read..]).await.map_err(|_| ProxyError::Ended)?;
            header.truncate(read + count);
            if count == 0 {
                return Err(ProxyError::Ended);
            }
        }
        source(&header).map(|source| source.map(|address| address.to_canonical()))
    };
    timeout(within, work).await.unwrap_or(Err(ProxyError::Timeout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SSH: &[u8] = b"SSH-2.0-x\r\n";

    fn v2(command_and_family: [u8; 2], rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &command_and_family[..], &length, rest].concat()
    }

    /// What it says, and what is left for SSH.
    async fn parse(bytes: &[u8]) -> Result<(Option<IpAddr>, Vec<u8>), ProxyError> {
        let mut left = bytes;
        let source = read(&mut left, WITHIN).await?;
        Ok((source, left.to_vec()))
    }

    async fn address(header: &[u8]) -> Option<String> {
        let (source, left) = parse(&[header, SSH].concat()).await.unwrap();
        assert_eq!(left, SSH);
        source.map(|address| address.to_string())
    }

    #[tokio::test]
    async fn both_versions_say_whose_connection_it_is_and_ssh_begins_after_them() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(address(b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 22\r\n").await, some("192.0.2.7"));
        assert_eq!(address(b"PROXY TCP6 2001:db8::7 2001:db8::1 4711 22\r\n").await, some("2001:db8::7"));
        assert_eq!(address(b"PROXY TCP6 ::ffff:192.0.2.7 2001:db8::1 4711 22\r\n").await, some("192.0.2.7"));
        assert_eq!(address(b"PROXY UNKNOWN\r\n").await, None);
        let v4 = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x67, 0, 22];
        assert_eq!(address(&v2([0x21, 0x11], &v4)).await, some("192.0.2.7"));
        let with_more = [&v4[..], &[0x03, 0, 4, 1, 2, 3, 4]].concat();
        assert_eq!(address(&v2([0x21, 0x11], &with_more)).await, some("192.0.2.7"));
        let mut v6 = [0; 36];
        v6[..2].copy_from_slice(&[0x20, 0x01]);
        assert_eq!(address(&v2([0x21, 0x21], &v6)).await, some("2001::"));
        assert_eq!(address(&v2([0x20, 0x00], &[])).await, None, "LOCAL: the load balancer itself");
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused() {
        for (bytes, error) in [
            (SSH.to_vec(), ProxyError::Format),
            (b"".to_vec(), ProxyError::Ended),
            (b"PROXY TCP4 192.0.2".to_vec(), ProxyError::Ended),
            (b"PROXY TCP4 192.0.2.777 198.51.100.1 4711 22\r\n".to_vec(), ProxyError::Format),
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n".to_vec(), ProxyError::Format),
            ([&b"PROXY UNKNOWN "[..], &[b'x'; 200]].concat(), ProxyError::TooLong),
            (v2([0x21, 0x11], &[192, 0, 2]), ProxyError::Format),
            (v2([0x31, 0x11], &[0; 12]), ProxyError::Format),
            (v2([0x21, 0x31], &[b'/'; 216]), ProxyError::Format),
            ([&SIGNATURE[..], &[0x21, 0x11, 0xff, 0xff]].concat(), ProxyError::TooLong),
        ] {
            assert_eq!(parse(&bytes).await, Err(error), "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[tokio::test]
    async fn a_load_balancer_that_says_nothing_is_not_waited_for() {
        let (mut near, _far) = tokio::io::duplex(64);
        assert_eq!(read(&mut near, Duration::from_millis(10)).await, Err(ProxyError::Timeout));
    }

    proptest! {
        #[test]
        fn whatever_comes_never_panics_and_reads_no_further_than_the_bound(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            prefix in prop_oneof![Just(&b""[..]), Just(&b"PROXY TCP4 "[..]), Just(&SIGNATURE[..])],
        ) {
            let bytes = [prefix, &bytes].concat();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            if let Ok((_, left)) = runtime.block_on(parse(&bytes)) {
                prop_assert!(bytes.len() - left.len() <= MAX_V2);
            }
        }
    }
}
