//! `wasi:sockets`.

use crate::wasi::io::streams::StreamError;
use crate::wasi::sockets::instance_network::instance_network;
use crate::wasi::sockets::network::{
    ErrorCode, IpAddress, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, Network,
};
use crate::wasi::sockets::tcp_create_socket::create_tcp_socket;
use crate::wasi::sockets::udp::OutgoingDatagram;
use crate::wasi::sockets::udp_create_socket::create_udp_socket;
use crate::wasi::sockets::{ip_name_lookup, tcp};
use crate::{Answer, Query};

/// What is said to whoever is there.
const GREETING: &[u8] = b"hello from a guest\n";

/// To 127.0.0.1, `port`.
pub fn answer(operation: &str, query: &Query) -> Answer {
    let to = loopback(u16::try_from(query.number("port")).unwrap_or(0));
    let network = instance_network();
    let answered = match operation {
        "tcp" => over_tcp(&network, to),
        "udp" => over_udp(&network, to),
        "listen" => listen(&network, to),
        "lookup" => look_up(&network, query.text("name")),
        _ => return Answer::Nothing,
    };
    match answered {
        Ok(text) => Answer::Found(text),
        Err(error) => Answer::Refused(error.name().to_owned()),
    }
}

fn loopback(port: u16) -> IpSocketAddress {
    let address = (127, 0, 0, 1);
    IpSocketAddress::Ipv4(Ipv4SocketAddress { port, address })
}

/// What comes back, to its end.
fn over_tcp(network: &Network, to: IpSocketAddress) -> Result<Vec<u8>, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_connect(network, to)?;
    socket.subscribe().block();
    let (input, output) = socket.finish_connect()?;
    output
        .blocking_write_and_flush(GREETING)
        .map_err(|_| ErrorCode::ConnectionReset)?;
    socket.shutdown(tcp::ShutdownType::Send)?;
    let mut text = Vec::new();
    loop {
        match input.blocking_read(4096) {
            Ok(piece) => text.extend(piece),
            Err(StreamError::Closed) => return Ok(text),
            Err(StreamError::LastOperationFailed(_)) => return Err(ErrorCode::ConnectionReset),
        }
    }
}

/// One datagram there, and one back.
fn over_udp(network: &Network, to: IpSocketAddress) -> Result<Vec<u8>, ErrorCode> {
    let socket = create_udp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(network, loopback(0))?;
    socket.subscribe().block();
    socket.finish_bind()?;
    let (input, output) = socket.stream(Some(to))?;
    output.subscribe().block();
    output.check_send()?;
    let datagram = OutgoingDatagram {
        data: GREETING.to_vec(),
        remote_address: None,
    };
    output.send(&[datagram])?;
    loop {
        input.subscribe().block();
        if let Some(datagram) = input.receive(1)?.pop() {
            return Ok(datagram.data);
        }
    }
}

/// The port on which it listens.
fn listen(network: &Network, at: IpSocketAddress) -> Result<Vec<u8>, ErrorCode> {
    let socket = create_tcp_socket(IpAddressFamily::Ipv4)?;
    socket.start_bind(network, at)?;
    socket.subscribe().block();
    socket.finish_bind()?;
    socket.start_listen()?;
    socket.subscribe().block();
    socket.finish_listen()?;
    Ok(match socket.local_address()? {
        IpSocketAddress::Ipv4(address) => format!("{}\n", address.port).into_bytes(),
        IpSocketAddress::Ipv6(_) => Vec::new(),
    })
}

/// A line for each address.
fn look_up(network: &Network, name: &str) -> Result<Vec<u8>, ErrorCode> {
    let addresses = ip_name_lookup::resolve_addresses(network, name)?;
    let mut lines = String::new();
    loop {
        addresses.subscribe().block();
        match addresses.resolve_next_address()? {
            Some(IpAddress::Ipv4((a, b, c, d))) => lines += &format!("{a}.{b}.{c}.{d}\n"),
            Some(IpAddress::Ipv6(_)) => lines += "IPv6\n",
            None => return Ok(lines.into_bytes()),
        }
    }
}
