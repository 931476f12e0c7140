// Go's net/http: what src/lib.rs says, `peer-go ADDRESS:PORT`.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

const hold = 50 * time.Millisecond

type message struct {
	Message string `json:"message"`
}

func respond(w http.ResponseWriter, contentType string, body []byte) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Content-Length", strconv.Itoa(len(body)))
	w.Write(body)
}

func text(w http.ResponseWriter, body string) {
	respond(w, "text/plain; charset=utf-8", []byte(body))
}

// What a path ends in, such as 10 for /alloc/10 after /alloc/.
func number(r *http.Request, prefix string) int {
	n, err := strconv.Atoi(strings.TrimPrefix(r.URL.Path, prefix))
	if err != nil {
		return 0
	}
	return n
}

func fill(block []byte, value byte) []byte {
	for at := range block {
		block[at] = value
	}
	return block
}

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: peer-go ADDRESS:PORT")
	}
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { text(w, "hello, world\n") })
	http.HandleFunc("/json", func(w http.ResponseWriter, r *http.Request) {
		body, _ := json.Marshal(message{"Hello, World!"})
		respond(w, "application/json", body)
	})
	http.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		respond(w, "application/octet-stream", body)
	})
	http.HandleFunc("/size/", func(w http.ResponseWriter, r *http.Request) {
		respond(w, "application/octet-stream", fill(make([]byte, number(r, "/size/")), 'x'))
	})
	http.HandleFunc("/alloc/", func(w http.ResponseWriter, r *http.Request) {
		kib := number(r, "/alloc/")
		block := make([]byte, kib*1024)
		pages := 0
		for at := 0; at < len(block); at += 4096 {
			block[at] = 1
			pages++
		}
		text(w, fmt.Sprintf("%d KiB, %d pages\n", kib, pages))
	})
	http.HandleFunc("/attack/", func(w http.ResponseWriter, r *http.Request) {
		block := fill(make([]byte, number(r, "/attack/")*1024), 7)
		time.Sleep(hold)
		text(w, fmt.Sprintf("held %d bytes\n", len(block)))
	})
	log.Fatal(http.ListenAndServe(os.Args[1], nil))
}
