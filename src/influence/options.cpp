#include "idistill/influence/options.hpp"

#include "idistill/influence/members.hpp"
#include "idistill/influence/settings.hpp"
#include "idistill/options/option_kinds.hpp"

namespace idistill::influence {

std::vector<options::Option> influence_options() {
    std::vector<std::string> names;
    std::string help;
    for (const auto& member : members()) {
        names.push_back(member.name);
        help += (help.empty() ? "" : ";\n") + member.name + ": " + member.help;
    }
    return {options::name_option({.name = "influence",
                                  .group = "Influence (exact, of targets and landmarks)",
                                  .value_name = "NAME",
                                  .help = help},
                                 &InfluenceSettings::member, names)};
}

}  // namespace idistill::influence
