/// Counters of a router, since it began.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct RouterMetrics {
    /// Frames of the session handed to roads, copies included.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of these: the same envelope by a second road, by fan-out or hedging.
    pub copies: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Copies that the budget of hedging did not allow.
    pub copies_over_budget: u64,
    /// Copies that a road's full queue did not take, while another road took the envelope.
    pub copies_skipped: u64,
    /// Frames that had come by another road a moment before, and went no further.
    pub copies_received: u64,
    /// Times that first attempts to a peer moved to a road further down the order.
    pub failovers: u64,
    /// Times that they moved back up.
    pub failbacks: u64,
    /// Transmissions that were handed back to the session, because their road had gone.
    pub handed_back: u64,
    /// Transmissions whose acknowledgement was overdue.
    pub overdue: u64,
    /// Sends that a road refused.
    pub send_errors: u64,
    /// Pings sent.
    pub pings: u64,
    /// Frames that claimed to be a router's and were none.
    pub refused: u64,
    /// Frames passed on for others.
    pub relayed: u64,
    /// Frames for others that were dropped: nobody was there, too many waited, or too many relays had passed them on.
    pub relay_dropped: u64,
}
