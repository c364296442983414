//! IFMessages over WebRTC DataChannels.

// The engine is complete in itself; the transport on top of it uses all of it.
#[allow(dead_code)]
mod engine;
