//! The program as on a laptop: `--dev`, without a configuration.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};

use crate::client::{Peer, over, udp_from};
use crate::silence::in_namespace;

/// A program that ends with this value.
struct Program(Child);

impl Drop for Program {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _ended = self.0.wait();
    }
}

/// What a line says of an address: transport, address, user and password.
fn printed(line: &str) -> Option<(String, SocketAddr, (String, String))> {
    let (_, line) = line.split_once("turn:")?;
    let (address, line) = line.split_once("?transport=")?;
    let (transport, line) = line.split_once(" with user ")?;
    let (user, password) = line.split_once(" and password ")?;
    let account = (user.to_owned(), password.trim().to_owned());
    Some((transport.to_owned(), address.parse().unwrap(), account))
}

#[test]
fn dev_serves_at_the_addresses_that_it_prints() {
    // Its ports are fixed ones: here nobody else has them.
    in_namespace(|| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_turn-server"));
        let child = command.arg("--dev").stdout(Stdio::piped()).spawn().unwrap();
        let mut program = Program(child);
        let mut lines = BufReader::new(program.0.stdout.take().unwrap()).lines();
        let found: Vec<_> =
            lines.by_ref().filter_map(|line| printed(&line.unwrap())).take(2).collect();
        let [(first, by_udp, account), (second, by_tcp, _)] = &found[..] else {
            panic!("{found:?}");
        };
        assert_eq!((&**first, &**second), ("udp", "tcp"));
        assert_eq!((by_udp, by_tcp), (&"127.0.0.1:3478".parse().unwrap(), by_udp));
        let connected = || over(TcpStream::connect(by_tcp).unwrap());
        let by_udp = || udp_from("127.0.0.1".parse().unwrap(), *by_udp);
        for mut client in [by_udp(), connected()] {
            client.account.clone_from(account);
            client.allocated();
            assert_eq!(client.bind(0x4000, Peer::echo()), None);
            client.assert_relays(0x4000);
            assert_eq!(client.permit("203.0.113.9:5000".parse().unwrap()), Some(403));
        }
        assert_eq!(by_udp().allocate().code(), Some(401), "another user");
    });
}
