//! DNS messages (RFC 1035 §4): questions are read with every length checked, and answers written into a given
//! room.

/// The longest name, its labels' lengths and the root's zero included.
const NAME_MAX: usize = 255;

/// Pointers of one name, at most: more than one for each label have no use, and take time.
const POINTERS_MAX: u32 = 127;

/// The longest label.
const LABEL_MAX: usize = 63;

/// Bytes of a message's header.
pub const HEADER_LEN: usize = 12;

/// The bytes are no message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// A name as it was sent: its case is kept. In wire format, uncompressed, with the root's zero.
#[derive(Clone, Copy)]
pub struct Name {
    bytes: [u8; NAME_MAX],
    len: usize,
}

impl Name {
    /// In wire format.
    pub fn wire(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    /// The labels, without the root's.
    pub fn labels(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.wire();
        std::iter::from_fn(move || {
            let (&len, tail) = rest.split_first()?;
            let (label, tail) = tail.split_at(usize::from(len));
            rest = tail;
            (len != 0).then_some(label)
        })
    }

    fn push(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let end = self.len + bytes.len();
        let place = self.bytes.get_mut(self.len..end).ok_or(Malformed)?;
        place.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }
}

/// A message being read.
#[derive(Clone, Copy)]
pub struct Reader<'m> {
    message: &'m [u8],
    at: usize,
}

impl<'m> Reader<'m> {
    /// Reads a message from an offset on.
    pub fn new(message: &'m [u8], at: usize) -> Self {
        Reader { message, at }
    }

    fn bytes(&mut self, len: usize) -> Result<&'m [u8], Malformed> {
        let rest = self.message.get(self.at..).ok_or(Malformed)?;
        let bytes = rest.get(..len).ok_or(Malformed)?;
        self.at += len;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, Malformed> {
        Ok(self.bytes(1)?[0])
    }

    /// Two bytes.
    pub fn u16(&mut self) -> Result<u16, Malformed> {
        let bytes = self.bytes(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    fn u32(&mut self) -> Result<u32, Malformed> {
        Ok(u32::from(self.u16()?) << 16 | u32::from(self.u16()?))
    }

    /// A name. A pointer leads to an earlier place than any before it, so that there is an end.
    pub fn name(&mut self) -> Result<Name, Malformed> {
        let mut name = Name {
            bytes: [0; NAME_MAX],
            len: 0,
        };
        let mut from = *self;
        let mut lowest = self.at;
        let mut followed = 0;
        loop {
            let len = from.byte()?;
            match len {
                0 => {
                    name.push(&[0])?;
                    break;
                }
                1..=63 => {
                    let label = from.bytes(usize::from(len))?;
                    name.push(&[len])?;
                    name.push(label)?;
                }
                0xc0.. => {
                    let target = usize::from(len & 0x3f) << 8 | usize::from(from.byte()?);
                    if target < HEADER_LEN || target >= lowest || followed == POINTERS_MAX {
                        return Err(Malformed);
                    }
                    if followed == 0 {
                        self.at = from.at;
                    }
                    followed += 1;
                    lowest = target;
                    from.at = target;
                }
                _ => return Err(Malformed), // 01 and 10 have no meaning
            }
        }
        if followed == 0 {
            self.at = from.at;
        }
        Ok(name)
    }

    /// Reads a resource record: the name, the type, and the fields that OPT uses.
    pub fn record(&mut self) -> Result<(Name, u16, u16, u32), Malformed> {
        let name = self.name()?;
        let (kind, class, ttl) = (self.u16()?, self.u16()?, self.u32()?);
        let len = self.u16()?;
        self.bytes(usize::from(len))?;
        Ok((name, kind, class, ttl))
    }
}

/// There is no room for more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// A message being written.
pub struct Writer<'m> {
    message: &'m mut [u8],
    len: usize,
}

impl<'m> Writer<'m> {
    /// Writes into `message`, and no further.
    pub fn new(message: &'m mut [u8]) -> Self {
        Writer { message, len: 0 }
    }

    /// Bytes that are written.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes back what lies behind `len`.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }

    /// Fails unless there is room for so many more.
    pub fn reserve(&self, bytes: usize) -> Result<(), Full> {
        match self.message.len() - self.len {
            room if room >= bytes => Ok(()),
            _ => Err(Full),
        }
    }

    /// More bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Full> {
        let end = self.len + bytes.len();
        let place = self.message.get_mut(self.len..end).ok_or(Full)?;
        place.copy_from_slice(bytes);
        self.len = end;
        Ok(())
    }

    /// Two more.
    pub fn u16(&mut self, number: u16) -> Result<(), Full> {
        self.bytes(&number.to_be_bytes())
    }

    /// Four more.
    pub fn u32(&mut self, number: u32) -> Result<(), Full> {
        self.bytes(&number.to_be_bytes())
    }

    /// A text of at most 255 bytes, with its length.
    pub fn text(&mut self, text: &str) -> Result<(), Full> {
        let len = u8::try_from(text.len()).map_err(|_| Full)?;
        self.bytes(&[len])?;
        self.bytes(text.as_bytes())
    }

    /// A name, uncompressed.
    pub fn name(&mut self, labels: impl Iterator<Item = &'static str>) -> Result<(), Full> {
        for label in labels {
            debug_assert!((1..=LABEL_MAX).contains(&label.len()), "{label}");
            self.text(label)?;
        }
        self.bytes(&[0])
    }

    /// Puts a number where space was left for it.
    pub fn set_u16(&mut self, at: usize, number: u16) {
        if let Some(place) = self.message[..self.len].get_mut(at..at + 2) {
            place.copy_from_slice(&number.to_be_bytes());
        }
    }
}
