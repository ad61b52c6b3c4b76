//! `wasi:sockets`.

use crate::wasi::sockets::ip_name_lookup;
use crate::wasi::sockets::types::{
    ErrorCode, IpAddressFamily, IpSocketAddress, Ipv4SocketAddress, TcpSocket, UdpSocket,
};
use crate::{Answer, Query, wit_stream};

/// What is said to whoever is there.
const GREETING: &[u8] = b"hello from a guest\n";

/// To 127.0.0.1, `port`.
pub async fn answer(operation: &str, query: &Query<'_>) -> Answer {
    let to = IpSocketAddress::Ipv4(Ipv4SocketAddress {
        port: u16::try_from(query.number("port")).unwrap_or(0),
        address: (127, 0, 0, 1),
    });
    let answered = match operation {
        "tcp" => over_tcp(to).await,
        "udp" => over_udp(to).await,
        "lookup" => {
            return match ip_name_lookup::resolve_addresses(query.text("name").to_owned()).await {
                Ok(addresses) => Answer::Found(format!("{} addresses\n", addresses.len()).into_bytes()),
                Err(error) => Answer::Refused(format!("{error:?}").to_lowercase()),
            };
        }
        _ => return Answer::Nothing,
    };
    match answered {
        Ok(text) => Answer::Found(text),
        Err(error) => Answer::Refused(format!("{error:?}").to_lowercase()),
    }
}

/// What comes back, to its end.
async fn over_tcp(to: IpSocketAddress) -> Result<Vec<u8>, ErrorCode> {
    let socket = TcpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(to).await?;
    let (mut data, words) = wit_stream::new();
    let sent = socket.send(words);
    data.write_all(GREETING.to_vec()).await;
    drop(data);
    sent.await?;
    let (answer, ended) = socket.receive();
    let answer = answer.collect().await;
    ended.await.map(|()| answer)
}

/// One datagram there, and one back.
async fn over_udp(to: IpSocketAddress) -> Result<Vec<u8>, ErrorCode> {
    let socket = UdpSocket::create(IpAddressFamily::Ipv4)?;
    socket.connect(to)?;
    socket.send(GREETING.to_vec(), None).await?;
    Ok(socket.receive().await?.0)
}
