//! Portero, the doorkeeper of a home or building.
//!
//! # Layout
//!
//! Modules stand in the order in which an event meets them, which is also the order to read them
//! in. A module imports only from its own block and the blocks above it; `tests/tidy.rs` checks.
#![forbid(unsafe_code)]

// Words: the vocabulary.
pub mod event;
pub mod alert;
pub mod action;
pub mod timer;
pub mod record;
pub mod clock;
pub mod secret;
pub mod node;
pub mod command;
pub mod door;

// Pure: what is true, and what follows from an event.
pub mod rules;
pub mod ledger;
pub mod phones;
pub mod builtin;
pub mod doors;
pub mod replay;

// Durable: what must not be forgotten, and the way in.
pub mod files;
pub mod disk;
pub mod journal;
pub mod index;
pub mod intake;
pub mod silence;

// Systems: what the vendors say, made into events.
pub mod systems;

// Delivery: lanes, retry policy, senders.
pub mod delivery;

// Watching: logs and counters.
pub mod telemetry;

// Deciding: from durable events to durable decisions.
pub mod waits;
pub mod router;
pub mod reload;

// Face: HTTP and the page.
pub mod web;

// Wiring.
pub mod config;
pub mod app;
pub mod cli;
