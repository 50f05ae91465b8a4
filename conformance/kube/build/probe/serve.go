package main

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// serve answers each TCP connection with its identity and then echoes; each datagram is answered
// with the identity and the datagram. With --delay it lives on, and serves, that long after SIGTERM.
func serve(ctx context.Context, flags *flag.FlagSet, arguments []string) {
	tcp := flags.String("tcp", "8080", "TCP ports, by comma")
	udp := flags.String("udp", "", "UDP ports, by comma")
	delay := flags.Duration("delay", 0, "how long to serve on after SIGTERM")
	_ = flags.Parse(arguments)
	me := identity{Cluster: os.Getenv("CLUSTER"), Node: os.Getenv("NODE"), Pod: os.Getenv("POD_UID")}
	var answered atomic.Int64
	for _, port := range numbers(*tcp) {
		listener, err := net.Listen("tcp", ":"+strconv.Itoa(port))
		if err != nil {
			fail("%v", err)
		}
		go accept(listener, me, port, &answered)
	}
	for _, port := range numbers(*udp) {
		socket, err := net.ListenPacket("udp", ":"+strconv.Itoa(port))
		if err != nil {
			fail("%v", err)
		}
		go datagrams(socket, me, port, &answered)
	}
	say(map[string]any{"serving": me, "tcp": numbers(*tcp), "udp": numbers(*udp)})
	<-ctx.Done()
	time.Sleep(*delay)
	say(map[string]any{"summary": "serve", "answered": answered.Load()})
}

func accept(listener net.Listener, me identity, port int, answered *atomic.Int64) {
	for {
		connection, err := listener.Accept()
		if err != nil {
			time.Sleep(10 * time.Millisecond)
			continue
		}
		go func() {
			defer connection.Close()
			mine := me
			mine.IP, _, _ = net.SplitHostPort(connection.LocalAddr().String())
			mine.Port, mine.Peer = port, connection.RemoteAddr().String()
			line, _ := json.Marshal(mine)
			if _, err := connection.Write(append(line, '\n')); err != nil {
				return
			}
			answered.Add(1)
			_, _ = io.Copy(connection, connection)
		}()
	}
}

func datagrams(socket net.PacketConn, me identity, port int, answered *atomic.Int64) {
	buffer := make([]byte, 65536)
	for {
		n, peer, err := socket.ReadFrom(buffer)
		if err != nil {
			continue
		}
		mine := me
		mine.Port, mine.Peer = port, peer.String()
		line, _ := json.Marshal(mine)
		answer := append(append(line, '\n'), bytes.Clone(buffer[:n])...)
		_, _ = socket.WriteTo(answer, peer)
		answered.Add(1)
	}
}

func numbers(list string) []int {
	found := []int{}
	for _, text := range strings.FieldsFunc(list, func(r rune) bool { return r == ',' }) {
		number, err := strconv.Atoi(text)
		if err != nil {
			fail("%q is no port", text)
		}
		found = append(found, number)
	}
	return found
}
