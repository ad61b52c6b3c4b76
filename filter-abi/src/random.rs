//! Random bytes, fit for secrets; needs the grant `random`.
//!
//! ```no_run
//! let nonce: [u8; 16] = tamis_filter::random::array();
//! let one_in_a_hundred = tamis_filter::random::fraction() < 0.01;
//! ```

use crate::host::random;

/// What the proxy gives at once.
const MAX_BYTES: usize = 4096;

/// So many random bytes.
pub fn bytes(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length);
    while bytes.len() < length {
        let wish = (length - bytes.len()).min(MAX_BYTES);
        bytes.extend(random::bytes(wish as u32));
    }
    bytes
}

/// An array of random bytes.
pub fn array<const N: usize>() -> [u8; N] {
    let bytes = bytes(N);
    bytes.try_into().expect("as many bytes as were asked for")
}

/// A random number of the whole range.
pub fn number() -> u64 {
    u64::from_le_bytes(array())
}

/// A random number from 0 to 1, without 1.
pub fn fraction() -> f64 {
    // The 53 bits that an f64 has for the fraction, so that each value is as likely as the next.
    (number() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Proxy;

    #[test]
    fn the_same_seed_gives_the_same_bytes() {
        let proxy = Proxy::new();
        let one = proxy.within(|| (bytes(5000), number(), array::<3>()));
        assert_eq!(one.0.len(), 5000);
        proxy.set_seed(0);
        assert_eq!(proxy.within(|| (bytes(5000), number(), array::<3>())), one);
        proxy.set_seed(1);
        assert_ne!(proxy.within(|| (bytes(5000), number(), array::<3>())), one);
        assert!(proxy.within(|| bytes(0)).is_empty());
    }

    #[test]
    fn fractions_are_spread_from_zero_to_one() {
        let fractions: Vec<f64> = Proxy::new().within(|| (0..1000).map(|_| fraction()).collect());
        assert!(fractions.iter().all(|fraction| (0.0..1.0).contains(fraction)));
        let mean = fractions.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
    }
}
