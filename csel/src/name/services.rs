//! The text of /etc/services: name to port and back, services(5).
//!
//! How it works: `name port/protocol alias... # comment`, one a line, first match wins, names compared exactly (as getservbyname).
//! Limits: none; the text is read line by line where it is. Locks: none. Failure: `None`.

/// A line: name, port, protocol, and the whole of it for the aliases.
struct Row<'a> {
    name: &'a [u8],
    port: u16,
    protocol: &'a [u8],
    line: &'a [u8],
}

impl Row<'_> {
    fn is_called(&self, service: &[u8]) -> bool {
        self.name == service || words(self.line).skip(2).any(|alias| alias == service)
    }
}

fn words(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    text.split(|b| b.is_ascii_whitespace()).filter(|w| !w.is_empty())
}

fn rows(text: &[u8]) -> impl Iterator<Item = Row<'_>> {
    text.split(|b| *b == b'\n').filter_map(|line| {
        let line = &line[..line.iter().position(|b| *b == b'#').unwrap_or(line.len())];
        let mut parts = words(line);
        let (name, number) = (parts.next()?, parts.next()?);
        let slash = number.iter().position(|b| *b == b'/')?;
        let port = core::str::from_utf8(&number[..slash]).ok()?.parse().ok()?;
        Some(Row { name, port, protocol: &number[slash + 1..], line })
    })
}

/// getservbyname(3).
#[must_use]
pub fn port_of(text: &[u8], service: &[u8], protocol: &str) -> Option<u16> {
    rows(text).find(|r| r.protocol == protocol.as_bytes() && r.is_called(service)).map(|r| r.port)
}

/// getservbyport(3).
#[must_use]
pub fn name_of<'a>(text: &'a [u8], port: u16, protocol: &str) -> Option<&'a [u8]> {
    rows(text).find(|r| r.protocol == protocol.as_bytes() && r.port == port).map(|r| r.name)
}
