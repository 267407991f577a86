use std::collections::{BTreeMap,BTreeSet};
use std::sync::Arc;
use crate::event::Event; use crate::record::*; use crate::action::PhoneId; use jiff::Timestamp; use crate::node::*;
#[derive(Debug,Clone)] pub struct House { pub people: BTreeSet<String>, pub groups: BTreeMap<String, Vec<String>>, pub sources: BTreeSet<String>, pub time_zone: jiff::tz::TimeZone }
#[derive(Debug,Default,serde::Serialize,serde::Deserialize)] pub struct Memory {}
impl Memory { pub fn apply_decided(&mut self,_:&Decided){} pub fn apply_settled(&mut self,_:&Settled){} pub fn set_phone(&mut self,_:&str,_:PhoneId){} pub fn remove_phone(&mut self,_:&PhoneId){}
 pub fn state(&self)->impl Iterator<Item=(&str,&i32)>{ std::iter::empty() } }
pub struct RuleSet;
impl RuleSet { pub fn load(_:&[SourceFile],_:&House)->Result<(RuleSet,Problems),Problems>{ todo!() } pub fn version(&self)->&str{""} pub fn len(&self)->usize{0}
 pub fn near_misses(&self,_:&Event)->Vec<(String,String)>{vec![]}
 pub fn decide(&self,_:&Arc<Event>,_:Position,_:&Memory,_:Timestamp)->Decided{ todo!() } }
pub mod explain { pub fn text(_:&crate::record::Decided,_:&dyn Fn(&crate::action::Action)->String)->String{String::new()} }
pub mod selftest { pub struct R{pub failed:usize} impl std::fmt::Display for R{fn fmt(&self,_:&mut std::fmt::Formatter)->std::fmt::Result{Ok(())}} pub fn run(_:&super::RuleSet,_:&dyn Fn(&str)->Result<Vec<crate::event::Event>,String>)->R{todo!()} }
