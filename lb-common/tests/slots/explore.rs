//! A model checker for a few parties on shared words, under x86-TSO (Sewell et al., "x86-TSO: a
//! rigorous and usable programmer's model for x86 multiprocessors", 2010).
//!
//! Each party has a store buffer: its stores reach memory in order but at any later time, its loads
//! see its own buffer first, and a compare-and-swap waits until the buffer is empty. All orders of
//! these steps are tried; a state that was met before is not tried again.
//!
//! A party is a plain closure around the shipped code. What it does next follows from the answers
//! that its loads and compare-and-swaps got so far, so it is run again from the start with these
//! answers until it asks for one more, and is then left by unwinding.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet, hash_map::Entry},
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
};

use lb_common::bucket::Word;

use crate::word::NewWord;

/// A word of the model.
pub enum Cell {
    Shared(usize),
    /// Nobody writes it, so when it is read does not matter.
    Constant(u64),
}

/// Who is asking.
enum Mode {
    /// Set-up, or the look at the end: at once.
    Direct(Vec<u64>),
    /// A party.
    Replay(Run),
}

struct Run {
    answers: Vec<u64>,
    answered: usize,
    stores: Vec<(usize, u64)>,
    question: Option<Question>,
}

#[derive(Clone, Copy, Debug)]
enum Question {
    Load(usize),
    Cas(usize, u64, u64),
}

/// Leaves a party that has asked.
struct Pause;

thread_local! {
    static MODE: RefCell<Mode> = const { RefCell::new(Mode::Direct(Vec::new())) };
}

impl Run {
    fn ask(&mut self, question: Question) -> Option<u64> {
        let answer = self.answers.get(self.answered).copied();
        self.answered += 1;
        if answer.is_none() {
            self.question = Some(question);
        }
        answer
    }
}

impl Word for Cell {
    fn load(&self) -> u64 {
        let index = match self {
            Self::Shared(index) => *index,
            Self::Constant(word) => return *word,
        };
        let answer = MODE.with_borrow_mut(|mode| match mode {
            Mode::Direct(memory) => Some(memory[index]),
            Mode::Replay(run) => run.ask(Question::Load(index)),
        });
        answer.unwrap_or_else(|| resume_unwind(Box::new(Pause)))
    }

    fn store(&self, new: u64) {
        let Self::Shared(index) = *self else { panic!("a store to a constant word") };
        MODE.with_borrow_mut(|mode| match mode {
            Mode::Direct(memory) => memory[index] = new,
            Mode::Replay(run) => run.stores.push((index, new)),
        });
    }

    fn cas(&self, seen: u64, new: u64) -> bool {
        let Self::Shared(index) = *self else { panic!("a compare-and-swap of a constant word") };
        let answer = MODE.with_borrow_mut(|mode| match mode {
            Mode::Direct(memory) => Some(cas(memory, index, seen, new)),
            Mode::Replay(run) => run.ask(Question::Cas(index, seen, new)),
        });
        answer.unwrap_or_else(|| resume_unwind(Box::new(Pause))) != 0
    }
}

impl NewWord for Cell {
    fn new(word: u64) -> Self {
        MODE.with_borrow_mut(|mode| match mode {
            Mode::Direct(memory) => {
                memory.push(word);
                Self::Shared(memory.len() - 1)
            }
            Mode::Replay(_) => panic!("a party makes no words"),
        })
    }

    fn constant(word: u64) -> Self {
        Self::Constant(word)
    }
}

fn cas(memory: &mut [u64], index: usize, seen: u64, new: u64) -> u64 {
    let took_place = memory[index] == seen;
    if took_place {
        memory[index] = new;
    }
    u64::from(took_place)
}

/// Where everybody stands.
#[derive(Clone, PartialEq, Eq, Hash)]
struct State {
    memory: Vec<u64>,
    parties: Vec<Progress>,
}

#[derive(Clone, Default, PartialEq, Eq, Hash)]
struct Progress {
    answers: Vec<u64>,
    /// Stores done so far, those still in the buffer included.
    stored: usize,
    buffer: Vec<(usize, u64)>,
}

/// What a party does after its answers.
#[derive(Clone)]
struct Next<R> {
    /// All stores up to there.
    stores: Vec<(usize, u64)>,
    then: Then<R>,
}

#[derive(Clone)]
enum Then<R> {
    Ask(Question),
    Done(R),
}

type Parties<'a, R> = [&'a dyn Fn() -> R];

struct Explorer<'a, R> {
    parties: &'a Parties<'a, R>,
    known: HashMap<(usize, Vec<u64>), Next<R>>,
    met: HashSet<State>,
    trace: Vec<String>,
}

/// Runs `parties` in all orders on the words that `setup` makes, and calls `end` for each different
/// end, when the words can be read. Returns how many states there are.
pub fn explore<T, R: Clone>(
    setup: impl FnOnce() -> T,
    parties: impl FnOnce(&T, &mut dyn FnMut(&Parties<'_, R>)),
    mut end: impl FnMut(&T, &[R]),
) -> usize {
    MODE.set(Mode::Direct(Vec::new()));
    let table = setup();
    let memory = memory();
    let mut states = 0;
    parties(&table, &mut |parties| {
        let mut explorer =
            Explorer { parties, known: HashMap::new(), met: HashSet::new(), trace: Vec::new() };
        let start = State { memory: memory.clone(), parties: vec![Progress::default(); parties.len()] };
        explorer.visit(start, &mut |results| end(&table, results));
        states = explorer.met.len();
    });
    states
}

fn memory() -> Vec<u64> {
    MODE.with_borrow(|mode| match mode {
        Mode::Direct(memory) => memory.clone(),
        Mode::Replay(_) => Vec::new(),
    })
}

impl<R: Clone> Explorer<'_, R> {
    fn visit(&mut self, mut state: State, end: &mut dyn FnMut(&[R])) {
        let nexts: Vec<Then<R>> = (0..self.parties.len()).map(|i| self.advance(i, &mut state)).collect();
        if !self.met.insert(state.clone()) {
            return;
        }
        let mut stuck = true;
        for (i, then) in nexts.iter().enumerate() {
            if let Some((index, word)) = state.parties[i].buffer.first().copied() {
                stuck = false;
                let mut next = state.clone();
                next.parties[i].buffer.remove(0);
                next.memory[index] = word;
                self.step(format!("{i}: word {index} := {word:#x} reaches memory"), next, end);
            }
            if let Then::Ask(question) = then {
                stuck = false;
                let mut next = state.clone();
                if let Some(answer) = answer(*question, &mut next, i) {
                    next.parties[i].answers.push(answer);
                    self.step(format!("{i}: {question:x?} gives {answer:#x}"), next, end);
                }
            }
        }
        if stuck {
            let results: Vec<R> = nexts
                .into_iter()
                .filter_map(|then| if let Then::Done(r) = then { Some(r) } else { None })
                .collect();
            MODE.set(Mode::Direct(state.memory));
            self.traced(|| end(&results));
        }
    }

    fn step(&mut self, what: String, next: State, end: &mut dyn FnMut(&[R])) {
        self.trace.push(what);
        self.visit(next, end);
        self.trace.pop();
    }

    /// Runs party `i` on to its next question; its stores go to its buffer, which nobody else sees.
    fn advance(&mut self, i: usize, state: &mut State) -> Then<R> {
        let progress = &mut state.parties[i];
        let next = match self.known.entry((i, progress.answers.clone())) {
            Entry::Occupied(known) => known.get().clone(),
            Entry::Vacant(unknown) => {
                MODE.set(Mode::Replay(Run {
                    answers: progress.answers.clone(),
                    answered: 0,
                    stores: Vec::new(),
                    question: None,
                }));
                let party = self.parties[i];
                let result = traced(&self.trace, || match catch_unwind(AssertUnwindSafe(party)) {
                    Ok(result) => Some(result),
                    Err(payload) if payload.is::<Pause>() => None,
                    Err(payload) => resume_unwind(payload),
                });
                let Mode::Replay(run) = MODE.replace(Mode::Direct(Vec::new())) else {
                    unreachable!("set above")
                };
                let then = match (result, run.question) {
                    (Some(result), _) => Then::Done(result),
                    (None, Some(question)) => Then::Ask(question),
                    (None, None) => unreachable!("a party pauses to ask"),
                };
                unknown.insert(Next { stores: run.stores, then }).clone()
            }
        };
        progress.buffer.extend_from_slice(&next.stores[progress.stored..]);
        progress.stored = next.stores.len();
        next.then
    }

    fn traced(&self, run: impl FnOnce()) {
        traced(&self.trace, run);
    }
}

/// Says how it came to a failed assertion.
fn traced<T>(trace: &[String], run: impl FnOnce() -> T) -> T {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|payload| {
        eprintln!("after these steps:\n  {}", trace.join("\n  "));
        resume_unwind(payload)
    })
}

/// The answer to a party's question, if it can have one now.
fn answer(question: Question, state: &mut State, party: usize) -> Option<u64> {
    let buffer = &state.parties[party].buffer;
    match question {
        Question::Load(index) => {
            let own = buffer.iter().rev().find(|(at, _)| *at == index);
            Some(own.map_or(state.memory[index], |(_, word)| *word))
        }
        Question::Cas(..) if !buffer.is_empty() => None,
        Question::Cas(index, seen, new) => Some(cas(&mut state.memory, index, seen, new)),
    }
}

mod tests {
    use std::collections::BTreeSet;

    use super::*;

    type Litmus<'a> = &'a dyn Fn(&[Cell; 2]) -> u64;

    fn ends(parties: [Litmus<'_>; 2]) -> BTreeSet<Vec<u64>> {
        let mut ends = BTreeSet::new();
        explore(
            || [Cell::new(0), Cell::new(0)],
            |words, run| run(&[&|| parties[0](words), &|| parties[1](words)]),
            |_, results| {
                ends.insert(results.to_vec());
            },
        );
        ends
    }

    #[test]
    fn stores_are_seen_late_as_x86_has_it() {
        // Litmus test SB: both may miss the other's store.
        let store_then_load = |mine: usize, theirs: usize| {
            move |words: &[Cell; 2]| {
                words[mine].store(1);
                words[theirs].load()
            }
        };
        let all = BTreeSet::from([vec![0, 0], vec![0, 1], vec![1, 0], vec![1, 1]]);
        assert_eq!(ends([&store_then_load(0, 1), &store_then_load(1, 0)]), all);
        // With a locked instruction in between, one of them sees it.
        let fenced = |mine: usize, theirs: usize| {
            move |words: &[Cell; 2]| {
                words[mine].cas(0, 1);
                words[theirs].load()
            }
        };
        assert!(!ends([&fenced(0, 1), &fenced(1, 0)]).contains(&vec![0, 0]));
    }

    #[test]
    fn stores_are_seen_in_order_as_x86_has_it() {
        // Litmus test MP: whoever sees the second store sees the first.
        let writer = |words: &[Cell; 2]| {
            words[0].store(1);
            words[1].store(1);
            0
        };
        let reader = |words: &[Cell; 2]| words[1].load() << 1 | words[0].load();
        assert_eq!(ends([&writer, &reader]), BTreeSet::from([vec![0, 0], vec![0, 1], vec![0, 3]]));
    }

    #[test]
    fn a_lost_update_is_found() {
        let add = |words: &[Cell; 2]| {
            let seen = words[0].load();
            words[0].store(seen + 1);
            seen
        };
        assert!(ends([&add, &add]).contains(&vec![0, 0]));
    }
}
