package export_tamis_filter_request_head

import "wit_component/battery"

var OnRequestHead = battery.OnRequestHead
