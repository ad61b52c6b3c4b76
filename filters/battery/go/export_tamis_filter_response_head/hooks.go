package export_tamis_filter_response_head

import "wit_component/battery"

var OnResponseHead = battery.OnResponseHead
