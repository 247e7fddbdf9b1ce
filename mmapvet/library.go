package mmapvet

import (
	"go/types"
	"strings"
)

// Library is the import path of the package that the checks are about.
const Library = "github.com/mmarinus/mmap"

type action uint8

const (
	harmless  action = iota // on any handle
	asking                  // Len and the like: 0 on a handle that is no longer good
	access                  // returns ErrMoved or ErrClosed on a handle that is no longer good
	change                  // an access that a view or a pin refuses, and that consumes nothing
	create                  // a new handle
	consume                 // a transition: its handles are consumed, its results are new ones
	release                 // a transition without a successor
	closing                 // Close
	sealing                 // Seal
	pinning                 // Pin
	unpin                   // Pin.Unpin
	pinBytes                // Pin.Bytes
	unsafeMem               // UnsafeBytes
	lend                    // calls its callback with the memory
	guard                   // calls its callback, and a fault in there is an error
	drain                   // calls its callback when nobody accesses the mapping
	same                    // another name of the same handle
	derive                  // of memory: the result is the same memory
)

// An entry says what a function of the library does with handles, pins, memory and callbacks.
type entry struct {
	does     action
	handles  int  // how many handles come first, a receiver included
	callback int  // the argument that it calls, a receiver counted
	results  int  // how many handles it returns, first
	keeps    bool // on failure it returns the handle that it got
	moves    bool // the memory is elsewhere afterwards, or nowhere
}

// library has every exported function, and every method of a handle or pin, that takes or
// returns a handle, a pin, memory or a callback. Methods are named without their type, for
// they are the same on each; those of Pin and Unknown that differ have it in front.
var library = map[string]entry{
	"Map":         {does: create, results: 1},
	"MapUnknown":  {does: create, results: 1},
	"UnsafeAdopt": {does: create, results: 1},

	"Protect": {does: consume, handles: 1, results: 1},
	"Over":    {does: consume, handles: 1, results: 1},
	"Forget":  {does: consume, handles: 1, results: 1},
	"Assert":  {does: consume, handles: 1, results: 1},
	"Resize":  {does: consume, handles: 1, results: 1, keeps: true, moves: true},
	"Move":    {does: consume, handles: 1, results: 1, keeps: true, moves: true},
	"Split":   {does: consume, handles: 1, results: 2},
	"Join":    {does: consume, handles: 2, results: 1},
	"Grow":    {does: access, handles: 1},

	"Guard":    {does: guard},
	"GuardAll": {does: guard},
	"Slice":    {does: derive},
	"Find":     {does: harmless},

	".Close":    {does: closing, handles: 1},
	".Release":  {does: release, handles: 1},
	".Pin":      {does: pinning, handles: 1},
	".Untyped":  {does: same, handles: 1},
	".Drain":    {does: drain, handles: 1, callback: 2},
	".Seal":     {does: sealing, handles: 1},
	".Len":      {does: asking, handles: 1},
	".Cap":      {does: asking, handles: 1},
	".Addr":     {does: asking, handles: 1},
	".Prot":     {does: asking, handles: 1},
	".String":   {does: harmless, handles: 1},
	".Regions":  {does: access, handles: 1},
	".SetName":  {does: access, handles: 1},
	".ReadAt":   {does: access, handles: 1},
	".WriteAt":  {does: access, handles: 1},
	".View":     {does: lend, handles: 1, callback: 1},
	".Update":   {does: lend, handles: 1, callback: 1},
	".Advise":   {does: access, handles: 1},
	".Prefault": {does: access, handles: 1},
	".Collapse": {does: access, handles: 1},
	".Lock":     {does: access, handles: 1},
	".Unlock":   {does: access, handles: 1},
	".Sync":     {does: access, handles: 1},
	".Resident": {does: access, handles: 1},
	".Nodes":    {does: access, handles: 1},
	".Discard":  {does: access, handles: 1},
	".Free":     {does: access, handles: 1},
	".Punch":    {does: access, handles: 1},
	".Track":    {does: access, handles: 1},

	".ViewRange":         {does: lend, handles: 1, callback: 3},
	".UpdateRange":       {does: lend, handles: 1, callback: 3},
	".UnsafeBytes":       {does: unsafeMem, handles: 1},
	".LockOnFault":       {does: access, handles: 1},
	".StartSync":         {does: access, handles: 1},
	".Invalidate":        {does: access, handles: 1},
	".ResidentPages":     {does: access, handles: 1},
	".SetPolicy":         {does: access, handles: 1},
	".DiscardLocked":     {does: access, handles: 1},
	".WipeOnFork":        {does: access, handles: 1},
	".PrefaultWrite":     {does: access, handles: 1},
	".InstallGuardPages": {does: access, handles: 1},
	".RemoveGuardPages":  {does: access, handles: 1},

	"Unknown.Protect":      {does: change, handles: 1},
	"Unknown.ProtectRange": {does: change, handles: 1},
	"Unknown.Place":        {does: change, handles: 1},
	"Unknown.ProtOf":       {does: asking, handles: 1},

	"Pin.Bytes": {does: pinBytes},
	"Pin.Unpin": {does: unpin},
}

// handleNames are the types of handles.
var handleNames = map[string]bool{
	"None": true, "Read": true, "Write": true, "Exec": true, "ReadWrite": true, "ReadExec": true,
	"WriteExec": true, "ReadWriteExec": true, "Unknown": true, "Mapping": true,
}

// insideNames are what handles embed: the same handle without its type.
var insideNames = map[string]bool{"reader": true, "writer": true, "updater": true, "base": true}

// ofLibrary returns the name of a type of the library, "" for others.
func ofLibrary(t types.Type) string {
	var name *types.TypeName
	switch t := t.(type) {
	case *types.Named:
		name = t.Obj()
	case *types.Alias:
		if n := t.Obj(); n.Pkg() != nil && n.Pkg().Path() == Library && n.Name() == "base" {
			return "Mapping"
		}
		return ofLibrary(types.Unalias(t))
	default:
		return ""
	}
	if name.Pkg() == nil || name.Pkg().Path() != Library {
		return ""
	}
	return name.Name()
}

// isHandle reports whether t is a handle, what one embeds, or a type parameter that can
// only be a handle.
func isHandle(t types.Type) bool {
	if p, ok := types.Unalias(t).(*types.TypeParam); ok {
		return onlyHandles(p.Constraint().Underlying(), 0)
	}
	name := ofLibrary(t)
	return handleNames[name] || insideNames[name]
}

func onlyHandles(t types.Type, depth int) bool {
	i, ok := t.(*types.Interface)
	if !ok || depth > 4 {
		return false
	}
	for e := range i.EmbeddedTypes() {
		switch e := types.Unalias(e).(type) {
		case *types.Union:
			all := e.Len() > 0
			for term := range e.Terms() {
				all = all && handleNames[ofLibrary(term.Type())]
			}
			if all {
				return true
			}
		default:
			if handleNames[ofLibrary(e)] || onlyHandles(e.Underlying(), depth+1) {
				return true
			}
		}
	}
	return false
}

func isPin(t types.Type) bool {
	p, ok := types.Unalias(t).(*types.Pointer)
	return ok && ofLibrary(p.Elem()) == "Pin"
}

// entryOf returns what the table says of a function or method.
func entryOf(f *types.Func) (e entry, name string, ok bool) {
	if f == nil || f.Pkg() == nil || f.Pkg().Path() != Library {
		return e, "", false
	}
	name = f.Name()
	key := name
	if recv := f.Signature().Recv(); recv != nil {
		t := recv.Type()
		if p, isPointer := types.Unalias(t).(*types.Pointer); isPointer {
			t = p.Elem()
		}
		switch owner := ofLibrary(t); {
		case owner == "Pin":
			key = "Pin." + name
		case isHandle(t) || types.IsInterface(t):
			key = "." + name
			if own, is := library["Unknown."+name]; is && owner == "Unknown" {
				return own, name, true
			}
		default:
			return e, name, false
		}
	}
	e, ok = library[key]
	return e, name, ok
}

// byMethod returns what a method does, called on a handle that is behind an interface.
func byMethod(name string) (entry, bool) {
	e, ok := library["."+name]
	return e, ok
}

// The errors of the library that say that a handle was misused: whoever compares with one
// expects it.
var misuseErrors = map[string]bool{"ErrMoved": true, "ErrClosed": true, "ErrBusy": true, "ErrSealed": true}

func isMisuseError(pkg *types.Package, name string) bool {
	if pkg == nil {
		return false
	}
	closed := name == "ErrClosed" && (pkg.Path() == "os" || pkg.Path() == "io/fs")
	return closed || pkg.Path() == Library && misuseErrors[name]
}

// hasPointers reports whether a value of type t can lead to memory.
func hasPointers(t types.Type) bool { return pointersIn(t, 0) }

func pointersIn(t types.Type, depth int) bool {
	if depth > 8 {
		return true
	}
	switch u := t.Underlying().(type) {
	case *types.Basic:
		return u.Info()&types.IsString != 0 || u.Kind() == types.UnsafePointer
	case *types.Array:
		return pointersIn(u.Elem(), depth+1)
	case *types.Struct:
		for f := range u.Fields() {
			if pointersIn(f.Type(), depth+1) {
				return true
			}
		}
		return false
	case *types.Tuple:
		for v := range u.Variables() {
			if pointersIn(v.Type(), depth+1) {
				return true
			}
		}
		return false
	}
	return true
}

// onlyPrints reports whether a function prints: it keeps no handle.
func onlyPrints(pkg, name string) bool {
	switch pkg {
	case "fmt", "log", "log/slog", "testing":
		return !strings.HasPrefix(name, "Cleanup")
	}
	return false
}
