//! Records as bytes of guest memory.

/// A value that guest memory holds: an integer, an array of integers, or a record.
pub(super) trait Bytes: Sized {
    /// Writes the value, little-endian, into a slice of its size.
    fn put(&self, bytes: &mut [u8]);
    /// Reads the value from a slice of its size.
    fn take(bytes: &[u8]) -> Self;
}

macro_rules! integers {
    ($($integer:ty),*) => {$(
        impl Bytes for $integer {
            #[inline]
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn take(bytes: &[u8]) -> Self {
                let mut value = [0; size_of::<Self>()];
                value.copy_from_slice(bytes);
                Self::from_le_bytes(value)
            }
        }
    )*};
}

integers!(u8, u16, u32, u64);

impl<T: Bytes + Copy + Default, const N: usize> Bytes for [T; N] {
    #[inline]
    fn put(&self, bytes: &mut [u8]) {
        for (value, chunk) in self.iter().zip(bytes.chunks_exact_mut(size_of::<T>())) {
            value.put(chunk);
        }
    }
    #[inline]
    fn take(bytes: &[u8]) -> Self {
        let mut values = [T::default(); N];
        for (value, chunk) in values.iter_mut().zip(bytes.chunks_exact(size_of::<T>())) {
            *value = T::take(chunk);
        }
        values
    }
}

/// Declares a record from rows `offset => field: type`, with its conversions to and from bytes. The
/// compiler checks size and offsets.
macro_rules! record {
    (
        $(#[$doc:meta])*
        $name:ident, $size:literal bytes {
            $($(#[$field_doc:meta])* $offset:literal => $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
        #[repr(C)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $name {
            /// Size of the record in guest memory, in bytes.
            pub const SIZE: usize = $size;

            /// Returns the record as guest memory holds it.
            #[inline]
            #[must_use]
            pub fn to_le_bytes(&self) -> [u8; $size] {
                let mut bytes = [0; $size];
                $(self.$field.put(&mut bytes[$offset..$offset + size_of::<$type>()]);)*
                bytes
            }

            /// Reads the record from the bytes of guest memory.
            #[inline]
            #[must_use]
            pub fn from_le_bytes(bytes: &[u8; $size]) -> Self {
                Self::take(bytes)
            }
        }

        impl Bytes for $name {
            #[inline]
            fn put(&self, bytes: &mut [u8]) {
                bytes.copy_from_slice(&self.to_le_bytes());
            }
            #[inline]
            fn take(bytes: &[u8]) -> Self {
                Self { $($field: Bytes::take(&bytes[$offset..$offset + size_of::<$type>()]),)* }
            }
        }

        const _: () = {
            assert!(size_of::<$name>() == $size, "the record has its size");
            assert!(0 $(+ size_of::<$type>())* == $size, "the record has no padding");
            $(assert!(core::mem::offset_of!($name, $field) == $offset, "the field has its offset");)*
        };
    };
}

pub(super) use record;
