// The one image of the tests: standard library only, so that it builds in a second.
module portolan.test/probe

go 1.26.0
