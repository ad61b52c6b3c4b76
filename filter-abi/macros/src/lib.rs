//! The `#[filter]` attribute, documented where it is re-exported: in `tamis-filter`.
//!
//! It reads no types: it finds the type and the names of the functions in the `impl` block, so that a component
//! exports exactly the hooks that are written there. It must not know what a hook does.

use proc_macro::{Delimiter, Group, Span, TokenStream, TokenTree};

/// The hooks that `tamis_filter::__guest!` can export.
const HOOKS: [&str; 2] = ["on_request_head", "on_response_head"];

/// Exports the hooks in this `impl Filter for ...` block.
#[proc_macro_attribute]
pub fn filter(arguments: TokenStream, item: TokenStream) -> TokenStream {
    if !arguments.is_empty() {
        return refuse(
            Span::call_site(),
            "`#[filter]` takes no arguments: it exports the hooks that it finds",
        );
    }
    match exports(item.clone()) {
        Ok(exports) => TokenStream::from_iter([item, exports]),
        Err(refusal) => TokenStream::from_iter([item, refusal]),
    }
}

/// `::tamis_filter::__guest!(Type: hook, hook);`
fn exports(item: TokenStream) -> Result<TokenStream, TokenStream> {
    let tokens = Vec::from_iter(item);
    let (filter, body) = filter_and_body(&tokens)?;
    let hooks = hooks(body);
    if hooks.is_empty() {
        let message = format!("a filter has at least one hook: {}", HOOKS.join(" or "));
        return Err(refuse(body.span_open(), &message));
    }
    let filter = TokenStream::from_iter(filter.iter().cloned());
    Ok(format!("::tamis_filter::__guest!({filter}: {});", hooks.join(", "))
        .parse()
        .expect("it is a macro call"))
}

/// The tokens between `for` and the braces, and the braces.
fn filter_and_body(tokens: &[TokenTree]) -> Result<(&[TokenTree], &Group), TokenStream> {
    let start = tokens.iter().position(|token| is_word(token, "impl")).unwrap_or(0);
    let name = tokens
        .iter()
        .skip(start)
        .position(|token| is_word(token, "for"))
        .map(|found| start + found + 1);
    match (name, tokens.last()) {
        (Some(name), Some(TokenTree::Group(body)))
            if body.delimiter() == Delimiter::Brace && is_word(&tokens[start], "impl") =>
        {
            if tokens[start..]
                .get(1)
                .is_some_and(|token| matches!(token, TokenTree::Punct(p) if p.as_char() == '<'))
            {
                return Err(refuse(
                    tokens[start + 1].span(),
                    "a component holds one filter: it cannot be generic",
                ));
            }
            Ok((&tokens[name..tokens.len() - 1], body))
        }
        _ => Err(refuse(
            Span::call_site(),
            "`#[filter]` stands on `impl Filter for YourFilter { ... }`",
        )),
    }
}

/// The names of the hooks among the functions in the braces.
fn hooks(body: &Group) -> Vec<String> {
    let tokens = Vec::from_iter(body.stream());
    let functions = tokens
        .windows(2)
        .filter(|pair| is_word(&pair[0], "fn"))
        .map(|pair| pair[1].to_string());
    functions.filter(|name| HOOKS.contains(&name.as_str())).collect()
}

fn is_word(token: &TokenTree, word: &str) -> bool {
    matches!(token, TokenTree::Ident(ident) if ident.to_string() == word)
}

/// `compile_error!("message")`, shown at `span`.
fn refuse(span: Span, message: &str) -> TokenStream {
    let call: TokenStream = format!("::core::compile_error!({message:?});")
        .parse()
        .expect("it is a macro call");
    call.into_iter()
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
