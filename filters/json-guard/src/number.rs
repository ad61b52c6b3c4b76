//! A number, exactly: JSON's are decimals of any length, and a comparison of binary fractions would let 0.1 + 0.2 pass
//! for another number, or two large identifiers for one.

use std::cmp::Ordering;

/// Digits of `multipleOf`, so that its remainders fit into machine words.
const MAX_DIVISOR_DIGITS: usize = 18;

/// A number, compared by its value and written as it came.
#[derive(Debug, Clone)]
pub struct Number {
    text: String,
    value: Decimal,
}

/// `digits` times 10 to the power of `exponent`. There are neither leading nor trailing zeros, so each value has one
/// form; 0 has no digits.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Number {
    /// Of a text that is a number by RFC 8259 section 6, whose exponent is well inside of 64 bits.
    pub fn new(text: &str) -> Self {
        Number {
            text: text.to_owned(),
            value: Decimal::new(text),
        }
    }

    /// As it came.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it has no fraction; `1.0` has none.
    pub fn is_integer(&self) -> bool {
        self.value.exponent >= 0
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl Eq for Number {}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Number {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, other) = (&self.value, &other.value);
        match (one.sign(), other.sign()) {
            (1, 1) => one.compare_magnitude(other),
            (-1, -1) => other.compare_magnitude(one),
            (one, other) => one.cmp(&other),
        }
    }
}

impl Decimal {
    fn new(text: &str) -> Self {
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (negative, mantissa) = match mantissa.strip_prefix('-') {
            Some(mantissa) => (true, mantissa),
            None => (false, mantissa),
        };
        let (integer, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = integer.bytes().chain(fraction.bytes()).map(|digit| digit - b'0');
        let mut digits: Vec<u8> = digits.skip_while(|digit| *digit == 0).collect();
        let significant = digits.iter().rposition(|digit| *digit != 0).map_or(0, |last| last + 1);
        let dropped = digits.len() - significant;
        digits.truncate(significant);
        if digits.is_empty() {
            return Decimal {
                negative: false,
                digits,
                exponent: 0,
            };
        }
        let exponent: i64 = exponent.parse().unwrap_or(0);
        Decimal {
            negative,
            digits,
            exponent: exponent + length(dropped) - length(fraction.len()),
        }
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        }
    }

    /// Nothing is expanded, so `1e308` costs as little as 1.
    fn compare_magnitude(&self, other: &Self) -> Ordering {
        let places = |decimal: &Self| decimal.exponent + length(decimal.digits.len());
        places(self)
            .cmp(&places(other))
            .then_with(|| self.digits.cmp(&other.digits))
    }
}

fn length(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// What `multipleOf` divides by.
#[derive(Debug, Clone)]
pub struct Divisor {
    digits: u64,
    exponent: i64,
}

impl Divisor {
    pub fn new(number: &Number) -> Result<Self, String> {
        let Decimal { digits, exponent, .. } = &number.value;
        if number.value.sign() != 1 {
            return Err("must be over 0".to_owned());
        }
        if digits.len() > MAX_DIVISOR_DIGITS {
            return Err(format!("has over {MAX_DIVISOR_DIGITS} digits"));
        }
        Ok(Divisor {
            digits: digits.iter().fold(0, |sum, digit| 10 * sum + u64::from(*digit)),
            exponent: *exponent,
        })
    }

    pub fn divides(&self, number: &Number) -> bool {
        let Decimal { digits, exponent, .. } = &number.value;
        // The digits end with no zero, so they are no multiple of a power of ten.
        let Ok(power) = u64::try_from(exponent - self.exponent) else {
            return digits.is_empty();
        };
        let modulus = u128::from(self.digits);
        let remainder = digits
            .iter()
            .fold(0, |sum, digit| (10 * sum + u128::from(*digit)) % modulus);
        (remainder * power_of_ten(power, modulus)).is_multiple_of(modulus)
    }
}

/// 10 to that power, modulo a number of 64 bits, by squaring.
fn power_of_ten(mut power: u64, modulus: u128) -> u128 {
    let (mut result, mut square) = (1 % modulus, 10 % modulus);
    while power > 0 {
        if power & 1 == 1 {
            result = result * square % modulus;
        }
        square = square * square % modulus;
        power >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_compare_by_their_value() {
        let ascending = [
            "-1e300",
            "-12",
            "-1.5",
            "-1.25",
            "-1e-300",
            "0",
            "1e-300",
            "0.1",
            "0.12",
            "0.2",
            "1",
            "1.5",
            "2",
            "9.99",
            "10",
            "9007199254740992",
            "9007199254740993",
            "1e300",
            "1e301",
        ];
        for (index, one) in ascending.iter().enumerate() {
            for (other_index, other) in ascending.iter().enumerate() {
                let compared = Number::new(one).cmp(&Number::new(other));
                assert_eq!(compared, index.cmp(&other_index), "{one} {other}");
            }
        }
        let equal = [
            ("1", "1.0"),
            ("100", "1e2"),
            ("0.010", "1E-2"),
            ("-0", "0"),
            ("0e9", "0.0"),
            ("12.5e1", "125"),
        ];
        for (one, other) in equal {
            assert_eq!(Number::new(one), Number::new(other), "{one} {other}");
        }
    }

    #[test]
    fn integers_and_multiples_are_exact() {
        for (text, is) in [
            ("1", true),
            ("1.0", true),
            ("1.5e1", true),
            ("1e300", true),
            ("0.0", true),
            ("1.5", false),
        ] {
            assert_eq!(Number::new(text).is_integer(), is, "{text}");
        }
        let cases = [
            ("0", "7", true),
            ("0.3", "0.1", true),
            ("19.99", "0.01", true),
            ("19.995", "0.01", false),
            ("-21", "7", true),
            ("22", "7", false),
            ("1e300", "3", false),
            ("3e300", "3", true),
            ("1e300", "0.0001", true),
            ("5", "2.5", true),
            ("5", "1e1", false),
            ("9007199254740993", "2", false),
            ("999999999999999999999999999999", "999999999999999999", false),
        ];
        for (number, divisor, divides) in cases {
            let divisor = Divisor::new(&Number::new(divisor)).unwrap();
            assert_eq!(
                divisor.divides(&Number::new(number)),
                divides,
                "{number} by {divisor:?}"
            );
        }
        for divisor in ["0", "-1", "1234567890123456789"] {
            assert!(Divisor::new(&Number::new(divisor)).is_err(), "{divisor}");
        }
    }

    proptest! {
        #[test]
        fn integers_compare_and_divide_as_machine_words_do(
            one in any::<i64>(),
            other in any::<i64>(),
            divisor in 1i64..1_000,
        ) {
            let number = |value: i64| Number::new(&value.to_string());
            prop_assert_eq!(number(one).cmp(&number(other)), one.cmp(&other));
            let divides = Divisor::new(&number(divisor)).unwrap().divides(&number(one));
            prop_assert_eq!(divides, one % divisor == 0);
        }
    }
}
