//! The bytes of a tunnel: frames, each of one stream.
//!
//! A frame is the stream's number (32 bits), its kind (8 bits), the length of what follows (24 bits), all big-endian,
//! and what follows: bytes for [`Frame::Data`], a number for [`Frame::Credit`], a code for [`Frame::Refuse`], otherwise
//! nothing. The longest fits into one packet of SSH.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use thiserror::Error;

const HEADER: usize = 8;

/// The most bytes in one frame: with its header the 32 kB that a packet of SSH carries.
pub(super) const MAX_DATA: usize = 32 * 1024 - HEADER;

/// One thing that is said about a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Frame {
    /// Connect a new stream.
    Open,
    /// It is connected.
    Accept,
    /// It is not.
    Refuse(Refusal),
    /// Bytes; as many as there is credit for.
    Data(Bytes),
    /// No more bytes follow in this direction.
    Eof,
    /// So many bytes more may be sent.
    Credit(u32),
    /// The stream has ended; what was sent before is still to be delivered.
    Close,
    /// The stream has ended; nothing more is to be delivered.
    Abort,
}

/// Why a stream was not connected. A code and not a text: what an agent sends is not shown to people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// Nobody listens there, or the system does not allow it.
    #[error("its sshd does not take connections")]
    NotListening,
    /// It took too long.
    #[error("its sshd does not answer")]
    Timeout,
    /// There are as many streams as there may be.
    #[error("too many connections are open through its agent")]
    TooMany,
    /// The tunnel ended meanwhile.
    #[error("the connection to its agent was lost")]
    Lost,
}

/// The peer does not keep to the rules: the tunnel ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the other end of the tunnel sent {0}")]
pub struct Fault(pub(super) &'static str);

impl Frame {
    fn kind(&self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Accept => 2,
            Self::Refuse(_) => 3,
            Self::Data(_) => 4,
            Self::Eof => 5,
            Self::Credit(_) => 6,
            Self::Close => 7,
            Self::Abort => 8,
        }
    }

    /// As it is sent. Data must not be longer than [`MAX_DATA`].
    pub(super) fn encode(&self, stream: u32) -> Bytes {
        let (code, number);
        let content: &[u8] = match self {
            Self::Data(data) => data,
            Self::Credit(credit) => {
                number = credit.to_be_bytes();
                &number
            }
            Self::Refuse(refusal) => {
                code = [match refusal {
                    Refusal::NotListening | Refusal::Lost => 1,
                    Refusal::Timeout => 2,
                    Refusal::TooMany => 3,
                }];
                &code
            }
            Self::Open | Self::Accept | Self::Eof | Self::Close | Self::Abort => &[],
        };
        let mut bytes = BytesMut::with_capacity(HEADER + content.len());
        bytes.put_u32(stream);
        bytes.put_u8(self.kind());
        bytes.put_uint(u64::try_from(content.len()).unwrap_or(u64::MAX), 3);
        bytes.put_slice(content);
        bytes.freeze()
    }

    fn decode(kind: u8, mut content: Bytes) -> Result<Self, Fault> {
        let bare = |frame| if content.is_empty() { Ok(frame) } else { Err(Fault("a frame with too much in it")) };
        match kind {
            1 => bare(Self::Open),
            2 => bare(Self::Accept),
            5 => bare(Self::Eof),
            7 => bare(Self::Close),
            8 => bare(Self::Abort),
            3 if content.len() == 1 => match content.get_u8() {
                1 => Ok(Self::Refuse(Refusal::NotListening)),
                2 => Ok(Self::Refuse(Refusal::Timeout)),
                3 => Ok(Self::Refuse(Refusal::TooMany)),
                _ => Err(Fault("a refusal that is not known")),
            },
            4 if !content.is_empty() => Ok(Self::Data(content)),
            6 if content.len() == 4 => Ok(Self::Credit(content.get_u32())),
            _ => Err(Fault("a frame that is not known")),
        }
    }
}

/// Bytes cut into frames, however they arrive.
#[derive(Debug, Default)]
pub(super) struct Frames {
    rest: Bytes,
}

impl Frames {
    /// More bytes have come. Call [`Frames::next`] until there is none.
    pub(super) fn push(&mut self, data: Bytes) {
        self.rest = if self.rest.is_empty() {
            data
        } else {
            let mut joined = BytesMut::with_capacity(self.rest.len() + data.len());
            joined.put_slice(&self.rest);
            joined.put_slice(&data);
            joined.freeze()
        };
    }

    /// The next whole frame and its stream.
    pub(super) fn next(&mut self) -> Result<Option<(u32, Frame)>, Fault> {
        let Some(mut header) = self.rest.get(..HEADER) else { return Ok(None) };
        let (stream, kind) = (header.get_u32(), header.get_u8());
        let length = usize::try_from(header.get_uint(3)).unwrap_or(usize::MAX);
        if length > MAX_DATA {
            return Err(Fault("a frame that is too long"));
        }
        if self.rest.len() < HEADER + length {
            return Ok(None);
        }
        self.rest.advance(HEADER);
        Frame::decode(kind, self.rest.split_to(length)).map(|frame| Some((stream, frame)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_out_as_they_went_in_however_they_are_cut() {
        let sent = [
            Frame::Open,
            Frame::Accept,
            Frame::Refuse(Refusal::NotListening),
            Frame::Refuse(Refusal::Timeout),
            Frame::Refuse(Refusal::TooMany),
            Frame::Data(Bytes::from_static(b"SSH-2.0-x\r\n")),
            Frame::Eof,
            Frame::Credit(u32::MAX),
            Frame::Close,
            Frame::Abort,
        ];
        let wire: Vec<u8> = sent.iter().zip(7..).flat_map(|(frame, stream)| frame.encode(stream)).collect();
        for size in 1..=wire.len() {
            let (mut frames, mut out) = (Frames::default(), vec![]);
            for piece in wire.chunks(size) {
                frames.push(Bytes::copy_from_slice(piece));
                out.extend(std::iter::from_fn(|| frames.next().unwrap()));
            }
            let expected: Vec<_> = (7..).zip(sent.iter().cloned()).collect();
            assert_eq!(out, expected);
        }
        let longest = Frame::Data(vec![7; MAX_DATA].into());
        let mut frames = Frames::default();
        frames.push(longest.encode(1));
        assert_eq!(longest.encode(1).len(), 32 * 1024);
        assert_eq!(frames.next(), Ok(Some((1, longest))));
    }

    #[test]
    fn what_is_no_frame_is_a_fault() {
        for bad in [
            &[0, 0, 0, 1, 0, 0, 0, 0][..],
            &[0, 0, 0, 1, 9, 0, 0, 0],
            &[0, 0, 0, 1, 1, 0, 0, 1, 0],
            &[0, 0, 0, 1, 3, 0, 0, 1, 4],
            &[0, 0, 0, 1, 3, 0, 0, 0],
            &[0, 0, 0, 1, 4, 0, 0, 0],
            &[0, 0, 0, 1, 6, 0, 0, 1, 0],
            // Longer than any: said before it has come.
            &[0, 0, 0, 1, 4, 0, 0x80, 0],
        ] {
            let mut frames = Frames::default();
            frames.push(Bytes::copy_from_slice(bad));
            assert!(frames.next().is_err(), "{bad:?}");
        }
    }
}
