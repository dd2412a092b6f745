//! Other makes' servers on free loopback ports, which the kernel ends with the test's process.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::sync::mpsc;
use std::time::Duration;

/// Starts the child from a thread that lives as long as this process, because the kernel ends it with that thread.
pub fn spawn_for_life(mut command: Command) -> Child {
    let program = command.get_program().to_owned();
    let (sender, receiver) = mpsc::channel();
    std::thread::Builder::new()
        .name("server".to_owned())
        .spawn(move || {
            // SAFETY: between fork and exec only this one system call is made.
            unsafe {
                command.pre_exec(|| nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).map_err(Into::into));
            }
            let _ = sender.send(command.spawn());
            loop {
                std::thread::park();
            }
        })
        .expect("a thread for the server starts");
    receiver.recv().expect("the thread answers").unwrap_or_else(|e| panic!("cannot start {program:?}: {e}"))
}

/// Ports that are free now, all different.
pub fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port is free")).collect();
    held.iter().map(|listener| listener.local_addr().expect("a bound port has a number").port()).collect()
}

/// One request on one connection; the whole answer, or `None` when there is none.
pub fn http(port: u16, request: &str, body: &[u8]) -> Option<String> {
    http_with(port, request, "", body)
}

/// The same with further header lines, each of which ends its line.
pub fn http_with(port: u16, request: &str, headers: &str, body: &[u8]) -> Option<String> {
    let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    connection.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
    let head = format!("{request} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n{headers}Content-Length: {}\r\n\r\n", body.len());
    connection.write_all(head.as_bytes()).ok()?;
    connection.write_all(body).ok()?;
    let mut answer = Vec::new();
    connection.read_to_end(&mut answer).ok()?;
    Some(String::from_utf8_lossy(&answer).into_owned())
}
