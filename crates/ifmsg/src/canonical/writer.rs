//! Writes canonical bytes as they come, and puts each object in order when it closes.

use std::cmp::Ordering;

use super::{CanonicalError, CanonicalErrorKind as Kind, Limits, order::Name};

pub(super) struct Writer {
    pub(super) out: Vec<u8>,
    /// The members of every object that is open, the innermost object's last.
    members: Vec<Slot>,
    scratch: Vec<u8>,
    limits: Limits,
    values_left: u32,
}

/// A member in `Writer::out`.
struct Slot {
    /// Where its name's opening quote stands.
    start: usize,
    /// Where its name's closing quote stands.
    name_end: usize,
    /// Where its value ends. Known when the object closes.
    end: usize,
    /// Whether its name holds an escape.
    escaped: bool,
    /// Where its name stands in the input.
    offset: usize,
}

/// An object that is being written.
#[derive(Default)]
pub(super) struct Object {
    /// How many members the objects around it have so far.
    base: usize,
    /// Where its first member begins in `Writer::out`.
    start: usize,
    /// Whether its members came in order so far.
    sorted: bool,
}

impl Writer {
    pub(super) fn new(limits: &Limits, capacity: usize) -> Self {
        Self {
            out: Vec::with_capacity(capacity),
            members: Vec::new(),
            scratch: Vec::new(),
            limits: *limits,
            values_left: limits.max_values,
        }
    }

    /// To be called before a value is written. `offset` is for the error.
    pub(super) fn count_value(&mut self, offset: usize) -> Result<(), CanonicalError> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or(Kind::TooManyValues.at(offset))?;
        Ok(())
    }

    /// Takes back a call of `count_value`.
    pub(super) fn uncount_value(&mut self) {
        self.values_left += 1;
    }

    /// To be called before `more` bytes are written that no limit on an input has bounded.
    pub(super) fn make_room(&self, more: usize) -> Result<(), CanonicalError> {
        if more > self.limits.max_bytes.saturating_sub(self.out.len()) {
            return Err(Kind::TooLarge.at(self.limits.max_bytes));
        }
        Ok(())
    }

    pub(super) fn begin_object(&mut self) -> Object {
        self.out.push(b'{');
        Object {
            base: self.members.len(),
            start: self.out.len(),
            sorted: true,
        }
    }

    /// To be called before a member's name is written. `offset` is for the error.
    pub(super) fn begin_name(&mut self, object: &Object, offset: usize) -> Result<(), CanonicalError> {
        let count = self.members.len() - object.base;
        if count >= self.limits.max_members as usize {
            return Err(Kind::TooManyMembers.at(offset));
        }
        if count > 0 {
            self.out.push(b',');
        }
        Ok(())
    }

    /// To be called when a member's name has been written, quotes included, from `start` on.
    pub(super) fn end_name(
        &mut self,
        object: &mut Object,
        start: usize,
        escaped: bool,
        offset: usize,
    ) -> Result<(), CanonicalError> {
        let slot = Slot {
            start,
            name_end: self.out.len() - 1,
            end: 0,
            escaped,
            offset,
        };
        if object.sorted
            && let Some(former) = self.members[object.base..].last()
        {
            match former.name(&self.out).cmp(slot.name(&self.out)) {
                Ordering::Less => {}
                Ordering::Equal => return Err(Kind::DuplicateMember.at(offset)),
                Ordering::Greater => object.sorted = false,
            }
        }
        self.members.push(slot);
        self.out.push(b':');
        Ok(())
    }

    pub(super) fn end_object(&mut self, object: &Object) -> Result<(), CanonicalError> {
        if !object.sorted {
            self.sort(object)?;
        }
        self.members.truncate(object.base);
        self.out.push(b'}');
        Ok(())
    }

    pub(super) fn finish(self) -> Result<Vec<u8>, CanonicalError> {
        // What comes out may be longer than what went in, though never by much: `9e15` becomes 16 digits.
        if self.out.len() > self.limits.max_bytes {
            return Err(Kind::TooLarge.at(self.limits.max_bytes));
        }
        Ok(self.out)
    }

    fn sort(&mut self, object: &Object) -> Result<(), CanonicalError> {
        let Self {
            out,
            members,
            scratch,
            ..
        } = self;
        let members = &mut members[object.base..];
        let mut end = out.len();
        for member in members.iter_mut().rev() {
            member.end = end;
            // A comma stands before each but the first.
            end = member.start - 1;
        }
        // Of two with the same name the later one is reported, whichever way the sort leaves them.
        members.sort_unstable_by(|a, b| a.name(out).cmp(b.name(out)).then(a.offset.cmp(&b.offset)));
        let duplicate = members
            .windows(2)
            .filter(|pair| pair[0].name(out).cmp(pair[1].name(out)).is_eq())
            .map(|pair| pair[1].offset)
            .min();
        if let Some(offset) = duplicate {
            return Err(Kind::DuplicateMember.at(offset));
        }
        scratch.clear();
        for (index, member) in members.iter().enumerate() {
            if index > 0 {
                scratch.push(b',');
            }
            scratch.extend_from_slice(&out[member.start..member.end]);
        }
        // The same members and commas, so the same length.
        out.truncate(object.start);
        out.extend_from_slice(scratch);
        Ok(())
    }
}

impl Object {
    pub(super) fn is_sorted(&self) -> bool {
        self.sorted
    }
}

impl Slot {
    fn name<'a>(&self, out: &'a [u8]) -> Name<'a> {
        Name {
            raw: &out[self.start + 1..self.name_end],
            escaped: self.escaped,
        }
    }
}
