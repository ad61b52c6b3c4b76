//! Addresses of mail, as people write them: of those of RFC 5321, neither the quoted nor the international ones.

use crate::window::{More, Window};

/// RFC 5321 section 4.5.3.1.1.
const MAX_LOCAL: usize = 64;
/// RFC 5321 section 4.5.3.1.3, without the brackets.
const MAX_LENGTH: usize = 254;
pub const REACH: usize = MAX_LENGTH;

pub fn begins(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

pub fn follows(byte: u8) -> bool {
    !begins(byte)
}

/// The longest address that begins here.
pub fn find(window: Window) -> Result<Option<usize>, More> {
    let mut at = 0;
    while window.at(at)?.is_some_and(is_local) {
        at += 1;
        if at > MAX_LOCAL {
            return Ok(None);
        }
    }
    if at == 0 || window.at(at)? != Some(b'@') {
        return Ok(None);
    }
    let domain = at + 1;
    at = domain;
    while at < MAX_LENGTH && window.at(at)?.is_some_and(is_domain) {
        at += 1;
    }
    Ok(domain_length(&window.bytes[domain..at]).map(|length| domain + length))
}

/// The characters that mail services give out. RFC 5322 section 3.2.3 has more, among them quotes, braces and the
/// equals sign: an address would swallow what stands around it.
fn is_local(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._%+-".contains(&byte)
}

fn is_domain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b".-".contains(&byte)
}

/// How much of the text is a domain: at least two labels, of which the last could be a top-level domain.
fn domain_length(text: &[u8]) -> Option<usize> {
    let (mut end, mut longest) = (0, None);
    for (index, label) in text.split(|byte| *byte == b'.').enumerate() {
        let trimmed = label.iter().rposition(|byte| *byte != b'-').map_or(0, |last| last + 1);
        if trimmed == 0 || label.starts_with(b"-") {
            break;
        }
        if index > 0 && trimmed > 1 && label[0].is_ascii_alphabetic() {
            longest = Some(end + trimmed);
        }
        if trimmed < label.len() {
            break;
        }
        end += label.len() + 1;
    }
    longest
}

#[cfg(test)]
mod tests {
    use crate::detector::Detector;
    use crate::detector::tests::check;

    #[test]
    fn addresses_are_found_with_nothing_around_them() {
        let longest_local = format!("{}@x.org", "a".repeat(64));
        let long_local = format!("{}@x.org", "a".repeat(65));
        let long_domain = format!("a@{}", "b.cd.".repeat(60));
        check(
            Detector::Email,
            &[
                ("a@b.cd", &["a@b.cd"]),
                ("Jane.Doe+tag@mail.example.co.uk", &["Jane.Doe+tag@mail.example.co.uk"]),
                ("{\"e\":\"_x%y@example.org\"}", &["_x%y@example.org"]),
                ("<a href='mailto:a@b.cd'>", &["a@b.cd"]),
                ("e=a@b.cd&f=1", &["a@b.cd"]),
                ("a@b.cd,e@f.gh; i@j.kl.", &["a@b.cd", "e@f.gh", "i@j.kl"]),
                ("a@b.cd-", &["a@b.cd"]),
                ("a@b.cd..ef", &["a@b.cd"]),
                ("a@b.cd.5", &["a@b.cd"]),
                ("...a@b.cd", &["a@b.cd"]),
                ("a@xn--bcher-kva.xn--p1ai", &["a@xn--bcher-kva.xn--p1ai"]),
                ("a@b@c.de", &["b@c.de"]),
                ("j\u{f6}rg@b.cd", &["rg@b.cd"]),
                (&longest_local, &[&longest_local]),
                (&long_domain, &[&long_domain[..251]]),
                ("a@b", &[]),
                ("a@b.c", &[]),
                ("a@b.1c", &[]),
                ("a@192.0.2.1", &[]),
                ("a@.bc", &[]),
                ("a@-b.cd", &[]),
                ("a @b.cd", &[]),
                ("@b.cd", &[]),
                (&long_local, &[]),
                ("", &[]),
            ],
        );
    }
}
