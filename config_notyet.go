package main

import (
	"fmt"
	"reflect"
	"strings"
)

// notYet are the keys of the contract that this version does not act upon.
// An option that is accepted and does nothing is a lie, so they are refused;
// only a value that turns the thing off ("", 0, false, an empty list), or the
// value behind "=", is taken. Where the file does not give such a key, the
// Config has it at its zero value, whatever its default will be.
//
// "*" stands for a name. A table stands for all keys in it. This list and the
// words "Not yet" in config.toml.example are kept alike by a test.
var notYet = []string{}

// findNotYet returns the entry of the list that covers the key: a key or a
// table, and the one value that is allowed.
func findNotYet(list []string, pattern string) (entry, allowed string, found bool) {
	for _, e := range list {
		entry, allowed, _ := strings.Cut(e, " = ")
		if within(pattern, entry) {
			return entry, allowed, true
		}
	}
	return "", "", false
}

// refuseNotYet refuses a key that was given, and decoded into v.
func (d *decoder) refuseNotYet(p keyPath, v reflect.Value) {
	entry, allowed, found := findNotYet(d.refused, p.pattern)
	if !found || v.Kind() == reflect.Struct { // a table's keys speak for themselves
		return
	}
	off := v.IsZero() || (v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.Len() == 0
	if !off && (allowed == "" || fmt.Sprint(v.Interface()) != allowed) {
		d.undecodable(p, "leave it out", "is not supported by this version yet")
		// What else is in a refused table need not be checked, only refused.
		table := p.where
		for range strings.Count(p.pattern[len(entry):], ".") {
			table = table[:strings.LastIndexByte(table, '.')]
		}
		d.refusedTables = append(d.refusedTables, table)
	}
}

// withholdNotYet takes the default away from a key that was not given.
func (d *decoder) withholdNotYet(p keyPath, v reflect.Value) {
	_, allowed, found := findNotYet(d.refused, p.pattern)
	switch {
	case !found, allowed != "" && fmt.Sprint(v.Interface()) == allowed:
	case v.Kind() == reflect.String:
		v.SetString(allowed)
	default:
		v.SetZero()
	}
}
