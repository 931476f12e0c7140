//! The zone: `transom.example`, with a record of each kind that a name server is asked for.

/// The labels of the zone's own name.
pub const ZONE: [&str; 2] = ["transom", "example"];

/// How long an answer may be kept, and how long the absence of one, in seconds.
pub const TTL: u32 = 3600;
pub const NEGATIVE_TTL: u32 = 300;

/// What a name has.
#[derive(Clone, Copy, Debug)]
pub enum Data {
    A([u8; 4]),
    Aaaa([u8; 16]),
    Txt(&'static [&'static str]),
    /// A name server, within the zone.
    Ns(&'static str),
    Soa,
}

impl Data {
    /// Its type's number (RFC 1035 §3.2.2, RFC 3596).
    pub fn kind(self) -> u16 {
        match self {
            Data::A(_) => 1,
            Data::Ns(_) => 2,
            Data::Soa => 6,
            Data::Txt(_) => 16,
            Data::Aaaa(_) => 28,
        }
    }
}

/// The SOA record's names, within the zone, and its numbers: serial, refresh, retry, expire, minimum.
pub const SOA_NAMES: [&str; 2] = ["ns1", "hostmaster"];
pub const SOA_NUMBERS: [u32; 5] = [2_026_112_101, 7200, 3600, 1_209_600, NEGATIVE_TTL];

const PARAGRAPH: &str = "A transom is the beam across the top of a door. Nothing goes over it. \
    This string is long, so that a few of its kind do not fit a datagram of 512 bytes.";

/// Names within the zone, "" for the zone itself, and what each has.
pub const RECORDS: &[(&str, &[Data])] = &[
    (
        "",
        &[
            Data::Soa,
            Data::Ns("ns1"),
            Data::A([192, 0, 2, 1]),
            Data::Aaaa(v6(1)),
            Data::Txt(&["memory is decided before it starts"]),
        ],
    ),
    ("ns1", &[Data::A([192, 0, 2, 53]), Data::Aaaa(v6(0x53))]),
    (
        "www",
        &[
            Data::A([192, 0, 2, 80]),
            Data::A([192, 0, 2, 81]),
            Data::Aaaa(v6(0x80)),
        ],
    ),
    ("four", &[Data::A([192, 0, 2, 4])]),
    ("long", &[Data::Txt(&[PARAGRAPH; 5])]),
    // `deep` has nothing itself, and exists all the same.
    ("very.deep", &[Data::Txt(&["far", "down"])]),
];

const fn v6(last: u8) -> [u8; 16] {
    let mut address = [0; 16];
    (address[0], address[1], address[2], address[3]) = (0x20, 0x01, 0x0d, 0xb8);
    address[15] = last;
    address
}

/// The labels of a name within the zone.
pub fn labels(name: &'static str) -> impl DoubleEndedIterator<Item = &'static str> {
    name.split('.')
        .filter(|label| !label.is_empty())
        .chain(ZONE)
}
