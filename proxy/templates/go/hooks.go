// Package export_tamis_filter_request_head holds the filter's hook: requests without the token are refused, the others
// say who let them pass. The generated code wants the functions of each exported interface in a package of its name.
package export_tamis_filter_request_head

import (
	"fmt"
	"runtime/debug"

	log "wit_component/tamis_filter_log"
	request "wit_component/tamis_filter_request"
	"wit_component/tamis_filter_types"
)

func OnRequestHead() tamis_filter_types.RequestVerdict {
	defer tellPanics()
	token := request.Header("x-token")
	if !token.IsSome() || string(token.Some()) != "sesame" {
		return tamis_filter_types.MakeRequestVerdictReply(tamis_filter_types.Reply{
			Status:  403,
			Headers: []tamis_filter_types.Header{{Name: "content-type", Value: []byte("text/plain")}},
			Body:    []byte("a token, please\n"),
		})
	}
	if request.SetHeader("x-filter", []byte("@NAME@")).IsErr() {
		panic("the name and the value are sound")
	}
	return tamis_filter_types.MakeRequestVerdictProceed()
}

// Whoever reads the log finds why it failed.
func tellPanics() {
	if reason := recover(); reason != nil {
		log.Write(log.Level_Error, fmt.Sprintf("%v\n%s", reason, debug.Stack()))
		panic(reason)
	}
}
