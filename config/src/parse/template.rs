//! Text with `{field}` in it.
//!
//! Control plane. Split once, so that nothing is parsed while requests are served. Knows no field.

/// The parts in order, plain text in between; no text is empty. `{{` and `}}` are plain braces.
pub(super) fn split<P>(
    template: &str,
    literal: impl Fn(String) -> P,
    field: impl Fn(&str) -> Result<P, String>,
) -> Result<Vec<P>, String> {
    let mut parts = Vec::new();
    let mut text = String::new();
    let mut rest = template;
    while let Some(brace) = rest.find(['{', '}']) {
        text.push_str(&rest[..brace]);
        rest = &rest[brace..];
        if rest.starts_with("{{") || rest.starts_with("}}") {
            text.push_str(&rest[..1]);
            rest = &rest[2..];
            continue;
        }
        let Some((name, after)) = rest.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Err("a brace without its partner; write `{field}`, or `{{` and `}}` for plain braces".to_owned());
        };
        if !text.is_empty() {
            parts.push(literal(std::mem::take(&mut text)));
        }
        parts.push(field(name)?);
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        parts.push(literal(text));
    }
    Ok(parts)
}
