// Options that limit the weights of --selection weighted.

#include "option_kinds.hpp"
#include "text.hpp"

namespace idistill::config {

using nlohmann::json;

Option max_weight_option(const std::string& group) {
    Option option =
        made({"max-weight", group, "X|Fx",
              "of weighted: no sample's /weight above X, where all weights add up to the number N of samples "
              "in the pool (k selected ones: N/k in the mean); 5x: none above 5 times N/k, that is above 5 "
              "in /selected/weight, for the k of --select"});
    option.apply = [](Settings& settings, const Given& given) {
        std::string text = single(given);
        settings.max_weight_of_mean = text.size() > 1 && text.back() == 'x';
        if (settings.max_weight_of_mean) text.pop_back();
        const auto value = whole<double>(text);
        const double least = settings.max_weight_of_mean ? 1.0 : 0.0;
        if (!value || !(*value >= least && *value > 0.0 && *value <= 1e300))
            refuse(given, "a weight above 0, or a multiple of the mean of at least 1x", in_quotes(given.values.front()),
                   "For example --max-weight 5x.");
        settings.max_weight = *value;
    };
    option.show = [](const Settings& s) {
        if (!s.max_weight) return json();
        return s.max_weight_of_mean ? json(shortest(*s.max_weight) + "x") : json(*s.max_weight);
    };
    return option;
}

Option source_share_option(const std::string& group) {
    Option option =
        made({"source-share", group, "NAME=S",
              "of weighted: at most this part of all weight, 0 to 1, goes to this source; may be repeated"});
    option.list = true;
    option.apply = [](Settings& settings, const Given& given) {
        settings.source_share.clear();
        for (const auto& text : given.values) {
            const auto [name, share] = named(given, text, "NAME=S");
            if (settings.source_share.contains(name))
                refuse(given, "every source once", in_quotes(name) + " twice", "Keep one of the two shares.");
            settings.source_share[name] = number_within<double>(given, share, 0.0, 1.0);
        }
    };
    option.show = [](const Settings& s) {
        json list = json::array();
        for (const auto& [name, share] : s.source_share) list.push_back(name + "=" + shortest(share));
        return list.empty() ? json() : list;
    };
    return option;
}

}  // namespace idistill::config
