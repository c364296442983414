use std::process::Command;

use crate::{
    Entered, Error,
    namespace::{Namespace, feed, leave},
};

/// Puts the calling thread into a network of its own: loopback alone, up, with all multicast (224.0.0.0/4) routed to it. Threads,
/// runtimes and programs that the thread starts *from now on* are in it too, so call it before a runtime is made; not
/// in an `async` test.
///
/// It lasts until what it returns is dropped: `let _network = isolate().unwrap();`.
///
/// # Errors
/// If the caller is not root, or `ip` is missing.
pub fn isolate() -> Result<Entered, Error> {
    let before = Namespace::current()?;
    leave()?;
    // From here on a failure takes the thread back.
    let entered = Entered::from(before);
    let mut ip = Command::new("ip");
    ip.args(["-batch", "-"]);
    feed(ip, "ip", LOOPBACK)?;
    Ok(entered)
}

/// Multicast on loopback takes both: the flag, and a route that prefers it.
pub(crate) const LOOPBACK: &str = "\
link set lo up multicast on
route add 224.0.0.0/4 dev lo
";
