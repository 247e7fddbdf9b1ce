//go:build !linux

package main

var newPages = newPlain

// syncDir does nothing: not every system can sync a folder. On Windows, which replaces no
// open file, Compact is an error and the store goes on with the old one.
func syncDir(string) error { return nil }
