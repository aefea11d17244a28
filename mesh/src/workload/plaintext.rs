//! The ports of a workload on which nobody may start mutual TLS to it: those whose PeerAuthentication mode is DISABLE. Told
//! to every client, which would otherwise begin a handshake with the application (policy spec §2.2.8 and §2.2.9).

/// Ports reached in plain bytes although the workload has an identity.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PlaintextPorts {
    /// What holds for a port that is not listed: true, plain bytes.
    otherwise: bool,
    /// The ports for which the opposite holds, ascending.
    except: Box<[u16]>,
}

impl PlaintextPorts {
    /// Every port but these (`otherwise`), or these alone. `None`: there is no such port.
    #[must_use]
    pub fn new(otherwise: bool, except: impl IntoIterator<Item = u16>) -> Option<Self> {
        let mut except: Vec<u16> = except.into_iter().collect();
        except.sort_unstable();
        except.dedup();
        let some = otherwise || !except.is_empty();
        some.then_some(Self {
            otherwise,
            except: except.into(),
        })
    }

    /// Whether mutual TLS must not be started on this port.
    #[must_use]
    pub fn contains(&self, port: u16) -> bool {
        self.otherwise != self.except.binary_search(&port).is_ok()
    }

    /// What holds for a port that is not listed, and the ports that are.
    #[must_use]
    pub fn parts(&self) -> (bool, &[u16]) {
        (self.otherwise, &self.except)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listed_ports_are_the_exception_either_way() {
        let some = PlaintextPorts::new(false, [9090, 80, 80]).unwrap();
        assert_eq!(some.parts(), (false, &[80, 9090][..]));
        assert!(some.contains(80) && some.contains(9090) && !some.contains(81));
        let all_but = PlaintextPorts::new(true, [443]).unwrap();
        assert!(!all_but.contains(443) && all_but.contains(80));
        assert!(PlaintextPorts::new(true, []).unwrap().contains(1));
        assert_eq!(PlaintextPorts::new(false, []), None);
    }
}
