package main

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"strings"
)

// record is the text of a record's data, as a zone file has it.
func record(message []byte, kind uint16, begin, end int) string {
	data := message[begin:end]
	switch kind {
	case 1, 28:
		if address, fits := netip.AddrFromSlice(data); fits {
			return address.String()
		}
	case 2, 5, 12:
		if name, _, err := domain(message, begin); err == nil {
			return name
		}
	case 16:
		texts := []string{}
		for len(data) > 0 && int(data[0]) < len(data) {
			texts = append(texts, string(data[1:1+data[0]]))
			data = data[1+data[0]:]
		}
		return strings.Join(texts, " ")
	case 33:
		if len(data) > 6 {
			name, _, err := domain(message, begin+6)
			if err == nil {
				return fmt.Sprintf("%d %d %d %s", binary.BigEndian.Uint16(data),
					binary.BigEndian.Uint16(data[2:]), binary.BigEndian.Uint16(data[4:]), name)
			}
		}
	}
	return hex.EncodeToString(data)
}

// domain is the name at a place, and the place behind it.
func domain(message []byte, at int) (string, int, error) {
	labels, next := []string{}, -1
	for range 128 {
		if at >= len(message) {
			return "", 0, errShort
		}
		length := int(message[at])
		switch {
		case length == 0:
			if next < 0 {
				next = at + 1
			}
			return strings.Join(labels, ".") + ".", next, nil
		case length >= 0xc0:
			if at+1 >= len(message) {
				return "", 0, errShort
			}
			if next < 0 {
				next = at + 2
			}
			at = (length&0x3f)<<8 | int(message[at+1])
		default:
			if at+1+length > len(message) {
				return "", 0, errShort
			}
			labels = append(labels, string(message[at+1:at+1+length]))
			at += 1 + length
		}
	}
	return "", 0, errShort
}
