package export_tamis_filter_request_body

import "wit_component/battery"

var (
	OnRequestBody = battery.OnRequestBody
	OnRequestEnd  = battery.OnRequestEnd
)
