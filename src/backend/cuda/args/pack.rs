//! Structures as the words that a launch copies.

/// Words of the largest structure.
pub const MAX_WORDS: usize = 48;

/// A structure's bytes, as words of 8 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packed {
    words: [u64; MAX_WORDS],
    bytes: usize,
}

impl Packed {
    const EMPTY: Self = Self {
        words: [0; MAX_WORDS],
        bytes: 0,
    };

    /// The words; the last one is padded with zeros.
    pub fn words(&self) -> &[u64] {
        &self.words[..self.bytes.div_ceil(8)]
    }

    /// Bytes of the structure.
    pub const fn len(&self) -> usize {
        self.bytes
    }

    /// Whether the structure has no fields.
    pub const fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    fn put(&mut self, value: u64, bytes: usize) {
        debug_assert_eq!(self.bytes % bytes, 0, "a field is aligned to its size");
        let (word, shift) = (self.bytes / 8, self.bytes % 8 * 8);
        self.words[word] |= value << shift;
        self.bytes += bytes;
    }
}

/// What a kernel is handed.
pub trait Args {
    /// The structure's name in `kernels/args.h`.
    const NAME: &'static str;

    /// Writes the fields in order.
    fn fields(&self, to: &mut dyn FnMut(&'static str, &dyn Field));

    /// The bytes.
    fn pack(&self) -> Packed {
        let mut packed = Packed::EMPTY;
        self.fields(&mut |_, field| field.put(&mut packed));
        packed
    }

    /// Name, offset and bytes of each field.
    fn layout(&self) -> Vec<(&'static str, usize, usize)> {
        let mut packed = Packed::EMPTY;
        let mut layout = Vec::new();
        self.fields(&mut |name, field| {
            let start = packed.bytes;
            field.put(&mut packed);
            layout.push((name, start, packed.bytes - start));
        });
        layout
    }
}

/// A field of a structure.
pub trait Field {
    /// Appends it.
    fn put(&self, to: &mut Packed);
}

impl Field for u64 {
    fn put(&self, to: &mut Packed) {
        to.put(*self, 8);
    }
}

impl Field for u32 {
    fn put(&self, to: &mut Packed) {
        to.put(u64::from(*self), 4);
    }
}

impl Field for f32 {
    fn put(&self, to: &mut Packed) {
        to.put(u64::from(self.to_bits()), 4);
    }
}

impl<A: Args> Field for A {
    fn put(&self, to: &mut Packed) {
        self.fields(&mut |_, field| field.put(to));
    }
}

impl<A: Args, const N: usize> Field for [A; N] {
    fn put(&self, to: &mut Packed) {
        for args in self {
            args.put(to);
        }
    }
}

/// Declares a structure and how it is written.
macro_rules! args {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq)]
        pub struct $name { $($(#[$field_meta])* pub $field: $type,)* }

        impl super::pack::Args for $name {
            const NAME: &'static str = stringify!($name);

            fn fields(&self, to: &mut dyn FnMut(&'static str, &dyn super::pack::Field)) {
                $(to(stringify!($field), &self.$field);)*
            }
        }
    };
}
pub(super) use args;
