//! What a head may measure.

/// What a head may measure. All in bytes but the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadLimits {
    /// The longest request target; a longer one gets 414.
    pub target_max: usize,
    /// The longest head, from the first byte to the empty line's LF; a longer one gets 431, or 414
    /// if its request line alone is too long.
    pub head_max: usize,
    /// The most fields; more get 431.
    pub fields_max: usize,
}

impl Default for HeadLimits {
    /// 8 KiB for the target (RFC 9112 §3 recommends to support a request line of 8000 bytes), as
    /// much again for the fields, and 100 fields.
    fn default() -> Self {
        Self {
            target_max: 8 * 1024,
            head_max: 16 * 1024,
            fields_max: 100,
        }
    }
}
