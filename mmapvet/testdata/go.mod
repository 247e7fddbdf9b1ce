module data

go 1.26.0

require github.com/mmarinus/mmap v0.0.0

require golang.org/x/sys v0.40.0

replace github.com/mmarinus/mmap => ../..
