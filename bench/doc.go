// Package bench measures package mmap beside other ways to the same data; the
// README says which, and how to run it.
package bench
