//go:build linux

package procmaps_test

import (
	"fmt"
	"log"
	"reflect"
	"strings"

	"github.com/mmarinus/mmap/procmaps"
)

func ExampleParse() {
	r, err := procmaps.Parse(`7f1c5ba29000-7f1c5ba2b000 r-xp 00003000 fe:00 13  /tmp/two\012lines (deleted)`)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%q deleted=%v, %d bytes from %d, %v\n", r.Name, r.Deleted, r.Size(), r.Offset, r.Perms)

	_, err = procmaps.Parse("00400000-00452000 rwx")
	fmt.Println(err)
	// Output:
	// "/tmp/two\nlines" deleted=true, 8192 bytes from 12288, r-xp
	// procmaps: bad permissions in the line "00400000-00452000 rwx"
}

func ExampleScan() {
	const table = `00400000-00452000 r-xp 00000000 08:02 173521  /usr/bin/dbus-daemon
00e03000-00e24000 rw-p 00000000 00:00 0       [heap]
7f1c5ba21000-7f1c5ba22000 rw-s 00000000 00:01 1057  /dev/zero (deleted)
`
	const both = procmaps.Write | procmaps.Shared
	for r, err := range procmaps.Scan(strings.NewReader(table)) {
		if err != nil {
			log.Fatal(err)
		}
		if r.Perms&both == both {
			fmt.Println(r)
		}
	}
	// Output: 7f1c5ba21000-7f1c5ba22000 rw-s 00000000 00:01 1057                       /dev/zero (deleted)
}

func ExampleTable_At() {
	t, err := procmaps.Open(0)
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	code := uint64(reflect.ValueOf(ExampleTable_At).Pointer())
	r, ok, err := t.At(code)
	fmt.Println(ok, err, r.Contains(code), r.Perms == procmaps.Read|procmaps.Exec)
	_, ok, err = t.At(0) // a nil pointer
	fmt.Println(ok, err)
	// Output:
	// true <nil> true true
	// false <nil>
}

func ExampleTable_Next() {
	t, err := procmaps.Open(0)
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	first, ok, err := t.Next(0)
	fmt.Println(ok, err, first.Start > 0)
	// Output: true <nil> true
}

func ExampleTable_Regions() {
	t, err := procmaps.Open(0)
	if err != nil {
		log.Fatal(err)
	}
	defer t.Close()
	for r, err := range t.Regions() {
		if err != nil {
			log.Fatal(err)
		}
		if r.Name == "[stack]" {
			fmt.Println(r.Perms&procmaps.Write != 0, r.Deleted)
		}
	}
	// Output: true false
}
