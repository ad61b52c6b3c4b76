//! The hooks' names.

/// The hooks, as interfaces of the contract and in its order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    Connection,
    RequestHead,
    HeldBody,
    RequestBody,
    ResponseHead,
    ResponseBody,
    Completion,
    Tick,
}
