package export_tamis_filter_response_body

import "wit_component/battery"

var (
	OnResponseBody = battery.OnResponseBody
	OnResponseEnd  = battery.OnResponseEnd
)
