// Package battery is the battery in Go.
//
// ../../README.md says what it does. An instance serves many exchanges, one after the other, so a variable holds the
// exchange's state, and OnRequestHead, the first hook of every exchange, sets it anew.
//
// The generated code wants each exported interface's functions in a package of that interface: those are the folders
// beside this one, which only point here.
package battery

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"

	clock "wit_component/tamis_filter_clock"
	completion "wit_component/tamis_filter_completion"
	exchange "wit_component/tamis_filter_exchange"
	keyvalue "wit_component/tamis_filter_key_value"
	log "wit_component/tamis_filter_log"
	metrics "wit_component/tamis_filter_metrics"
	outbound "wit_component/tamis_filter_outbound"
	random "wit_component/tamis_filter_random"
	request "wit_component/tamis_filter_request"
	response "wit_component/tamis_filter_response"
	"wit_component/tamis_filter_types"

	"go.bytecodealliance.org/pkg/wit/types"
)

type (
	bodyVerdict    = tamis_filter_types.BodyVerdict
	endVerdict     = tamis_filter_types.EndVerdict
	header         = tamis_filter_types.Header
	heldVerdict    = tamis_filter_types.HeldVerdict
	requestVerdict = tamis_filter_types.RequestVerdict
	verdict        = tamis_filter_types.Verdict
	edit           = wit_types.Result[wit_types.Unit, tamis_filter_types.EditError]
)

// What an exchange leaves for its later hooks.
type exchangeState struct {
	// How many request heads: more than one shows a leak.
	seen         int
	bodyMode     wit_types.Option[[]byte]
	responseMode wit_types.Option[[]byte]
	requestBytes int
}

var (
	// Lives as long as the instance.
	mark string
	// Lives as long as the exchange.
	state exchangeState
)

func Configure(config string) wit_types.Result[wit_types.Unit, string] {
	// Not into a struct, for which `Mark` would do as well.
	var members map[string]any
	if err := json.Unmarshal([]byte(config), &members); err == nil {
		mark, _ = members["mark"].(string)
	}
	if mark == "" {
		return wit_types.Err[wit_types.Unit]("battery: config.mark must be a non-empty string")
	}
	return wit_types.Ok[wit_types.Unit, string](wit_types.Unit{})
}

func OnRequestHead() requestVerdict {
	command := string(request.Header("x-battery-do").SomeOr(nil))
	state = exchangeState{
		bodyMode:     request.Header("x-battery-body"),
		responseMode: request.Header("x-battery-response"),
	}
	for _, name := range []string{"x-battery-do", "x-battery-body", "x-battery-response"} {
		must(request.RemoveHeader(name))
	}
	state.seen++
	setHeader("x-battery", mark)
	if state.bodyMode.IsNone() {
		request.PassBody()
	}
	return obey(command)
}

func OnHeldBody(body []byte, complete bool) heldVerdict {
	setHeader("x-held", fmt.Sprintf("%d:%t", len(body), complete))
	for i, b := range body {
		if 'a' <= b && b <= 'z' {
			body[i] = b - 'a' + 'A'
		}
	}
	return tamis_filter_types.MakeHeldVerdictReplace(body)
}

func OnRequestBody(chunk []byte) bodyVerdict {
	state.requestBytes += len(chunk)
	switch string(state.bodyMode.SomeOr(nil)) {
	case "swap":
		return tamis_filter_types.MakeBodyVerdictReplace(swapped(chunk))
	case "drop":
		return tamis_filter_types.MakeBodyVerdictDrop()
	}
	return tamis_filter_types.MakeBodyVerdictKeep()
}

func OnRequestEnd([]header) endVerdict {
	if string(state.bodyMode.SomeOr(nil)) == "swap" {
		return finish(fmt.Sprintf("[%d]", state.requestBytes))
	}
	return tamis_filter_types.MakeEndVerdictKeep()
}

func OnResponseHead() verdict {
	must(response.SetHeader("x-battery-seen", fmt.Appendf(nil, "%d:%s", state.seen, mark)))
	if state.responseMode.IsNone() {
		response.PassBody()
	}
	if response.Status() == 299 {
		return tamis_filter_types.MakeVerdictReply(tamis_filter_types.Reply{Status: 503, Body: []byte("replaced\n")})
	}
	return tamis_filter_types.MakeVerdictProceed()
}

func OnResponseBody(chunk []byte) bodyVerdict {
	switch string(state.responseMode.SomeOr(nil)) {
	case "swap":
		return tamis_filter_types.MakeBodyVerdictReplace(swapped(chunk))
	case "split":
		half := len(chunk) / 2
		return tamis_filter_types.MakeBodyVerdictPieces([][]byte{chunk[:half], chunk[half:]})
	}
	return tamis_filter_types.MakeBodyVerdictKeep()
}

func OnResponseEnd([]header) endVerdict {
	if string(state.responseMode.SomeOr(nil)) == "swap" {
		return finish("<end>")
	}
	return tamis_filter_types.MakeEndVerdictKeep()
}

func OnCompletion(outcome completion.Outcome) {
	must(exchange.SetAttribute("battery-bytes", strconv.FormatUint(outcome.ResponseBytes, 10)))
}

// Does what the header `x-battery-do` said.
func obey(command string) requestVerdict {
	switch command {
	case "reply":
		return tamis_filter_types.MakeRequestVerdictReply(tamis_filter_types.Reply{
			Status:  418,
			Headers: []header{{Name: "x-from", Value: []byte(mark)}},
			Body:    []byte("short and stout\n"),
		})
	case "trap":
		panic("as the request wished")
	case "read":
		return readBody(65536, tamis_filter_types.OverMax_Refuse)
	case "read-on":
		return readBody(16, tamis_filter_types.OverMax_Continue)
	case "call":
		call()
	case "count":
		count()
	case "attr":
		must(exchange.SetAttribute("battery", mark))
	case "forbidden":
		setHeader("x-edit", outcomeOf(request.SetHeader("content-length", []byte("5"))))
	case "echo":
		setHeader("x-joined", string(bytes.Join(request.HeaderValues("x-multi"), []byte("|"))))
	case "metrics":
		metrics.CounterAdd("battery_calls", []metrics.Label{{Name: "kind", Value: "head"}}, 1)
		metrics.HistogramObserve("battery_seconds", nil, 0.25)
	case "log":
		log.Write(log.Level_Info, "battery says "+mark)
	case "time":
		if clock.NowMs() > 1_600_000_000_000 {
			setHeader("x-time-ok", "1")
		}
	case "random":
		setHeader("x-random-len", strconv.Itoa(len(random.Bytes(16))))
	}
	return tamis_filter_types.MakeRequestVerdictProceed()
}

func call() {
	result := outbound.Send(outbound.Call{Cluster: "side", Method: "GET", Target: "/side?from=" + mark})
	if result.IsErr() {
		names := [...]string{
			outbound.CallError_NotGranted:  "not-granted",
			outbound.CallError_Invalid:     "invalid",
			outbound.CallError_TooMany:     "too-many",
			outbound.CallError_TooLarge:    "too-large",
			outbound.CallError_TimedOut:    "timed-out",
			outbound.CallError_Unreachable: "unreachable",
			outbound.CallError_Broken:      "broken",
		}
		setHeader("x-side", "error:"+names[result.Err()])
		return
	}
	answer := result.Ok()
	setHeader("x-side", fmt.Sprintf("%d:%s", answer.Status, answer.Body))
}

func count() {
	sum := keyvalue.Add("count", 1, wit_types.None[uint64]())
	if sum.IsErr() {
		// The only error that there is.
		setHeader("x-count", "error:too-large")
		return
	}
	setHeader("x-count", strconv.FormatInt(sum.Ok(), 10))
}

// The edit's error as the contract names it.
func outcomeOf(result edit) string {
	if result.IsOk() {
		return "ok"
	}
	names := [...]string{
		tamis_filter_types.EditError_Invalid:   "invalid",
		tamis_filter_types.EditError_Forbidden: "forbidden",
		tamis_filter_types.EditError_TooLarge:  "too-large",
		tamis_filter_types.EditError_TooLate:   "too-late",
	}
	return names[result.Err()]
}

// Traps if the host refused the edit, so that no refusal goes unseen.
func must(result edit) {
	if result.IsErr() {
		panic("the host refused an edit: " + outcomeOf(result))
	}
}

func setHeader(name, value string) {
	must(request.SetHeader(name, []byte(value)))
}

func readBody(max uint64, over tamis_filter_types.OverMax) requestVerdict {
	return tamis_filter_types.MakeRequestVerdictReadBody(tamis_filter_types.ReadBody{Max: max, Over: over})
}

func finish(data string) endVerdict {
	return tamis_filter_types.MakeEndVerdictFinish(tamis_filter_types.Ending{Data: []byte(data)})
}

func swapped(chunk []byte) []byte {
	for i, b := range chunk {
		if b == 'a' {
			chunk[i] = 'b'
		}
	}
	return chunk
}
