//! Lowercase hexadecimal without an allocation: two hashes stand in nearly every line. [`ifmsg::hex`] reads it.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

pub(crate) fn push(out: &mut Vec<u8>, bytes: &[u8]) {
    // In pieces on the stack: a push for each digit asks each time whether there is room.
    for piece in bytes.chunks(32) {
        let mut text = [0; 64];
        for (digits, byte) in text.chunks_exact_mut(2).zip(piece) {
            digits[0] = DIGITS[usize::from(byte >> 4)];
            digits[1] = DIGITS[usize::from(byte & 15)];
        }
        out.extend_from_slice(&text[..2 * piece.len()]);
    }
}
