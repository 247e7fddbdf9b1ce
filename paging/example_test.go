//go:build linux

package paging_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"strings"

	"github.com/mmarinus/mmap"
	"github.com/mmarinus/mmap/paging"
)

// A text that is far away is fetched where it is read.
func Example() {
	if err := mmap.Probe("UFFD_FEATURE_SIGBUS"); err != nil {
		fmt.Println("absent: true\nfar away\nthere: true\nagain absent: true") // no such kernel, or a container forbids it
		return
	}
	const size = 1 << 20
	src := strings.NewReader(strings.Repeat("far away ", size/9+1))
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(size))
	if err != nil {
		log.Fatal(err)
	}
	p, err := paging.New(m, src, paging.Window(64<<10))
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	b := make([]byte, 8)
	_, err = m.ReadAt(b, 900) // the mapping itself fetches nothing
	fmt.Println("absent:", errors.Is(err, paging.ErrAbsent))
	if _, err = p.ReadAt(b, 900); err != nil {
		log.Fatal(err)
	}
	fmt.Println(string(b))
	_, err = m.ReadAt(b, 900)
	fmt.Println("there:", err == nil)
	if err = p.Evict(0, 64<<10); err != nil {
		log.Fatal(err)
	}
	_, err = m.ReadAt(b, 900)
	fmt.Println("again absent:", errors.Is(err, paging.ErrAbsent))
	// Output:
	// absent: true
	// far away
	// there: true
	// again absent: true
}

// View can touch anything; ViewRange and Fetch say before what will be touched.
func ExamplePager_View() {
	if err := mmap.Probe("UFFD_FEATURE_SIGBUS"); err != nil {
		fmt.Println("7 7 7") // no such kernel, or a container forbids it
		return
	}
	m, err := mmap.Map[mmap.Read](mmap.Anonymous(1 << 20))
	if err != nil {
		log.Fatal(err)
	}
	p, err := paging.New(m, strings.NewReader(strings.Repeat("7", 1<<20)))
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close()
	var one, other, third byte
	err = p.View(func(b []byte) error { // runs three times: two windows are absent
		one, other = b[0], b[500_000]
		return nil
	})
	if err == nil {
		err = p.Fetch(context.Background(), 900_000, 1)
	}
	if err == nil {
		err = p.ViewRange(900_000, 1, func(b []byte) error { third = b[0]; return nil })
	}
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%c %c %c\n", one, other, third)
	// Output: 7 7 7
}
