//! What the tracker does with TIME_WAIT, of which the kernel reports nothing.

use tcp_monitor_common::TcpState;

use super::Tracker;
use crate::lifecycle::event::{ClosedBy, Event, Evidence};
use crate::lifecycle::socket::Socket;
use crate::lifecycle::time::Time;
use crate::lifecycle::waiting::{Addresses, Minisocket, Substate};

impl Tracker {
    /// The application is gone and our FIN acknowledged; a minisocket awaits the peer's FIN.
    pub(super) fn await_fin(&mut self, socket: Socket, now: Time, out: &mut Vec<Event>) {
        let fin = self.flows.end(&socket.addresses().of_peer()).sent.fin_seq();
        let minisocket = Minisocket::new(socket, Substate::FinWait2);
        // It may have passed the interface already, and be processed right after this.
        if fin.is_some_and(|fin| minisocket.awaits_fin(fin)) {
            self.receive_fin(minisocket, now, out);
        } else {
            self.add_waiting(minisocket, now);
        }
    }

    pub(super) fn receive_fin(&mut self, minisocket: Minisocket, time: Time, out: &mut Vec<Event>) {
        let rcv_nxt = minisocket.rcv_nxt.map(|next| next.wrapping_add(1));
        let mut socket = minisocket.socket;
        let (from, to) = (TcpState::FinWait2, TcpState::TimeWait);
        out.push(socket.enter(from, to, time, Evidence::Segment));
        out.push(socket.closed(time, ClosedBy::Local));
        self.flows.set_state(&socket.addresses(), to, time);
        self.add_waiting(Minisocket { rcv_nxt, ..Minisocket::new(socket, Substate::TimeWait) }, time);
    }

    /// A new connection takes over the addresses of a minisocket.
    pub(super) fn reuse_waiting(
        &mut self,
        key: Addresses,
        time: Time,
        evidence: Evidence,
        out: &mut Vec<Event>,
    ) {
        if let Some(minisocket) = self.waiting.remove(&key) {
            self.end_waiting(minisocket, time, evidence, ClosedBy::Local, out);
        }
    }

    /// This end sent a RST. Only in the FIN_WAIT2 substate does that drop the minisocket.
    pub(super) fn abort_waiting(
        &mut self,
        key: Addresses,
        time: Time,
        evidence: Evidence,
        out: &mut Vec<Event>,
    ) {
        let awaits_fin = self.waiting.get(&key).is_some_and(|waiting| waiting.substate == Substate::FinWait2);
        if awaits_fin && let Some(minisocket) = self.waiting.remove(&key) {
            self.end_waiting(minisocket, time, evidence, ClosedBy::LocalReset, out);
        }
    }

    pub(super) fn end_waiting(
        &mut self,
        minisocket: Minisocket,
        time: Time,
        evidence: Evidence,
        closed_by: ClosedBy,
        out: &mut Vec<Event>,
    ) {
        let mut socket = minisocket.socket;
        self.flows.set_state(&socket.addresses(), TcpState::Close, time);
        match minisocket.substate {
            Substate::FinWait2 => {
                out.push(socket.enter(TcpState::FinWait2, TcpState::Close, time, evidence));
                out.push(socket.closed(time, closed_by));
            }
            // It was told as closed when TIME_WAIT began.
            Substate::TimeWait => {
                out.push(socket.enter(TcpState::TimeWait, TcpState::Close, time, evidence));
            }
        }
    }
}
