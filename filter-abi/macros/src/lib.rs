//! The `#[filter]` attribute, documented where it is re-exported: in `tamis-filter`.
//!
//! It reads no types: it finds the type and the names of the functions in the `impl` block, so that a component
//! exports exactly the hooks that are written there. It must not know what a hook does.

use proc_macro::{Delimiter, Group, Span, TokenStream, TokenTree};

/// The functions of `Filter` that are hooks, and the interface that exports each: in the contract's order, which
/// `tamis_filter::__guest!` relies on.
const HOOKS: [(&str, &str); 10] = [
    ("on_connection", "Connection"),
    ("on_request_head", "RequestHead"),
    ("on_held_body", "HeldBody"),
    ("on_request_body", "RequestBody"),
    ("on_request_end", "RequestBody"),
    ("on_response_head", "ResponseHead"),
    ("on_response_body", "ResponseBody"),
    ("on_response_end", "ResponseBody"),
    ("on_completion", "Completion"),
    ("on_tick", "Tick"),
];

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

/// `::tamis_filter::__guest!(Type: Interface, Interface);`
fn exports(item: TokenStream) -> Result<TokenStream, TokenStream> {
    let tokens = Vec::from_iter(item);
    let (filter, body) = filter_and_body(&tokens)?;
    let interfaces = interfaces(body)?;
    let filter = TokenStream::from_iter(filter.iter().cloned());
    Ok(
        format!("::tamis_filter::__guest!({filter}: {});", interfaces.join(", "))
            .parse()
            .expect("it is a macro call"),
    )
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

/// The interfaces of the hooks among the functions in the braces.
fn interfaces(body: &Group) -> Result<Vec<&'static str>, TokenStream> {
    let tokens = Vec::from_iter(body.stream());
    let functions = tokens.windows(2).filter(|pair| is_word(&pair[0], "fn"));
    let functions: Vec<String> = functions.map(|pair| pair[1].to_string()).collect();
    let written = |interface: &str| {
        let mut hooks = HOOKS.iter().filter(|hook| hook.1 == interface);
        hooks.any(|hook| functions.iter().any(|function| function == hook.0))
    };
    if !HOOKS.iter().any(|(_, interface)| written(interface)) {
        let names: Vec<&str> = HOOKS.iter().map(|hook| hook.0).collect();
        let message = format!("a filter has at least one hook, of {}", names.join(", "));
        return Err(refuse(body.span_open(), &message));
    }
    if written("HeldBody") && !written("RequestHead") {
        let message = "`on_held_body` is called only when `on_request_head` has asked for the body";
        return Err(refuse(body.span_open(), message));
    }
    // An exchange of a filter begins at a head: what the filter keeps of the one before is dropped there. Bodies cannot
    // tell, as some messages have none and others are cut off.
    let begins_at_request = written("RequestHead") || written("RequestBody");
    let begins_at_response = !begins_at_request && written("ResponseBody");
    let mut interfaces: Vec<&str> = HOOKS.iter().map(|hook| hook.1).collect();
    interfaces.dedup();
    interfaces.retain(|interface| match *interface {
        "RequestHead" => begins_at_request,
        "ResponseHead" => begins_at_response || written("ResponseHead"),
        interface => written(interface),
    });
    Ok(interfaces)
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
