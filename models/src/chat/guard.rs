//! Values that a template makes, kept small.
//!
//! The engine counts steps and bytes, but it writes, compares and drops values by recursion: a list
//! in a list in a list overflows the stack, a namespace that holds itself never ends, and
//! `{% set a = [a, a] %}` forty times over is a text of 2^40 items. So every instruction that can make
//! a container is followed by one that looks at it, and every assignment to a namespace is preceded
//! by one. What passes is a tree of bounded depth and bounded size, without namespaces inside.

use minijinja::{
    Error, ErrorKind, State, Value,
    machinery::{Instruction, Instructions, Span},
    value::{DynObject, ObjectRepr},
};

/// Values are nested at most so deep.
pub(super) const MAX_DEPTH: usize = 100;

/// The filter that is put in; no template can spell it.
pub(super) const FILTER: &str = "chaski:look";
/// The filter for what a namespace is to hold.
pub(super) const STORE_FILTER: &str = "chaski:look_to_store";

/// A filter without a place among those that the engine remembers.
const NO_LOCAL: u8 = u8::MAX;
/// What a value counts beside its text, bytes.
const VALUE_BYTES: usize = 16;

/// The same instructions with a look at each container that they make.
pub(super) fn guarded<'s>(
    from: &Instructions<'s>,
    name: &'s str,
    source: &'s str,
) -> Instructions<'s> {
    let look = |filter| Instruction::ApplyFilter(filter, Some(1), NO_LOCAL);
    let mut places = Vec::new();
    let mut plan = Vec::new();
    let mut index = 0;
    while let Some(instruction) = from.get(index) {
        places.push(plan.len() as u32);
        if matches!(instruction, Instruction::SetAttr(_)) {
            // The value lies below the namespace.
            plan.push((Instruction::Swap, index));
            plan.push((look(STORE_FILTER), index));
            plan.push((Instruction::Swap, index));
        }
        plan.push((instruction.clone(), index));
        if makes_container(instruction) {
            plan.push((look(FILTER), index));
        }
        index += 1;
    }
    places.push(plan.len() as u32);
    let mut to = Instructions::new(name, source);
    let mut last_span = None;
    for (mut instruction, index) in plan {
        if let Some(target) = jump_target(&mut instruction)
            && let Some(&place) = places.get(*target as usize)
        {
            *target = place;
        }
        let line = from.get_line(index);
        // Some operators have a line and no column: that of what stands before them is close.
        let near = |span: &Span| Some(usize::from(span.start_line)) == line;
        let span = from.get_span(index).or(last_span.filter(near));
        last_span = span;
        match (span, line) {
            (Some(span), _) => to.add_with_span(instruction, span),
            (None, Some(line)) => {
                to.add_with_line(instruction, u16::try_from(line).unwrap_or(u16::MAX))
            }
            (None, None) => to.add(instruction),
        };
    }
    to
}

/// Whether an instruction leaves a value on the stack that was not there before and can hold others.
/// All are listed, so that a new one of the engine's is looked at here.
const fn makes_container(instruction: &Instruction<'_>) -> bool {
    match instruction {
        Instruction::BuildMap(_)
        | Instruction::BuildList(_)
        | Instruction::BuildTuple(_)
        | Instruction::Add
        | Instruction::Mul
        | Instruction::Slice
        | Instruction::ApplyFilter(..)
        | Instruction::CallFunction(..)
        | Instruction::CallMethod(..)
        | Instruction::CallObject(_) => true,
        // Constants are as deep and as large as their source, and the arguments by name of a call are
        // gone after it.
        Instruction::LoadConst(_) | Instruction::BuildKwargs(_) | Instruction::MergeKwargs(_) => {
            false
        }
        Instruction::EmitRaw(_)
        | Instruction::StoreLocal(_)
        | Instruction::Lookup(_)
        | Instruction::GetAttr(_)
        | Instruction::SetAttr(_)
        | Instruction::GetItem
        | Instruction::UnpackList(_)
        | Instruction::UnpackLists(_)
        | Instruction::Sub
        | Instruction::Div
        | Instruction::IntDiv
        | Instruction::Rem
        | Instruction::Pow
        | Instruction::Neg
        | Instruction::Eq
        | Instruction::Ne
        | Instruction::Gt
        | Instruction::Gte
        | Instruction::Lt
        | Instruction::Lte
        | Instruction::Not
        | Instruction::StringConcat
        | Instruction::In
        | Instruction::CompareAndPreserve(_)
        | Instruction::PerformTest(..)
        | Instruction::Emit
        | Instruction::PushLoop(_)
        | Instruction::PushWith
        | Instruction::Iterate(_)
        | Instruction::PushDidNotIterate
        | Instruction::PopFrame
        | Instruction::PopLoopFrame
        | Instruction::Jump(_)
        | Instruction::JumpIfFalse(_)
        | Instruction::JumpIfFalseOrPop(_)
        | Instruction::JumpIfTrueOrPop(_)
        | Instruction::PushAutoEscape
        | Instruction::PopAutoEscape
        | Instruction::BeginCapture(_)
        | Instruction::EndCapture
        | Instruction::DupTop
        | Instruction::DiscardTop
        | Instruction::FastRecurse
        | Instruction::Swap
        | Instruction::BuildMacro(..)
        | Instruction::Return
        | Instruction::IsUndefined
        | Instruction::Enclose(_)
        | Instruction::GetClosure => false,
    }
}

/// The index of an instruction that an instruction holds.
const fn jump_target<'i>(instruction: &'i mut Instruction<'_>) -> Option<&'i mut u32> {
    match instruction {
        Instruction::Iterate(to)
        | Instruction::Jump(to)
        | Instruction::JumpIfFalse(to)
        | Instruction::JumpIfFalseOrPop(to)
        | Instruction::JumpIfTrueOrPop(to)
        | Instruction::BuildMacro(_, to, _) => Some(to),
        _ => None,
    }
}

/// The filter behind each instruction that can make a container: a tree of at most [`MAX_DEPTH`] and
/// `max` bytes, or a namespace, whose contents were looked at when they were assigned.
pub(super) fn look(state: &State<'_, '_>, value: Value, max: usize) -> Result<Value, Error> {
    if value.as_object().is_some_and(is_namespace) {
        return Ok(value);
    }
    look_to_store(state, value, max)
}

/// The filter before each assignment to a namespace: no namespace is part of the value, so none
/// comes to hold itself.
pub(super) fn look_to_store(
    state: &State<'_, '_>,
    value: Value,
    max: usize,
) -> Result<Value, Error> {
    let Some(object) = value.as_object() else {
        return Ok(value);
    };
    let mut walk = Walk { left: max };
    let items = walk.object(object, 1)?;
    state.consume_fuel((max - walk.left) as u64 / 64)?;
    Ok(items.map_or(value, Value::from))
}

fn is_namespace(object: &DynObject) -> bool {
    object.type_name().ends_with("::Namespace")
}

/// A walk over the tree that a value is.
struct Walk {
    /// Bytes that it may still have.
    left: usize,
}

impl Walk {
    /// Walks over what `object` holds; if that is computed while it is asked for, gives it.
    fn object(&mut self, object: &DynObject, depth: usize) -> Result<Option<Vec<Value>>, Error> {
        let refused = |detail: String| Err(Error::new(ErrorKind::InvalidOperation, detail));
        if is_namespace(object) {
            return refused("a namespace cannot be a part of another value".to_owned());
        }
        if depth > MAX_DEPTH {
            return refused(format!("a value is nested more than {MAX_DEPTH} deep"));
        }
        match object.repr() {
            ObjectRepr::Map => {
                for (key, value) in object.try_iter_pairs().into_iter().flatten() {
                    self.item(&key, depth)?;
                    self.item(&value, depth)?;
                }
                Ok(None)
            }
            ObjectRepr::Seq => {
                for value in object.try_iter().into_iter().flatten() {
                    self.item(&value, depth)?;
                }
                Ok(None)
            }
            ObjectRepr::Iterable => {
                let mut items = Vec::new();
                for value in object.try_iter().into_iter().flatten() {
                    self.item(&value, depth)?;
                    items.push(value);
                }
                Ok(Some(items))
            }
            // A macro, or what a loop knows about itself.
            _ => Ok(None),
        }
    }

    fn item(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        let bytes = VALUE_BYTES + value.as_str().map_or(0, str::len);
        self.left = self
            .left
            .checked_sub(bytes)
            .ok_or_else(|| Error::from(ErrorKind::OutOfFuel))?;
        if let Some(object) = value.as_object() {
            self.object(object, depth + 1)?;
        }
        Ok(())
    }
}
