// The list of influence functions: a line each, and one that declares it.

#include "idistill/influence/members.hpp"

#include "idistill/base/error.hpp"
#include "idistill/influence/influence.hpp"
#include "idistill/influence/settings.hpp"
#include "idistill/options/option_kinds.hpp"

namespace idistill::influence {

Member gradient_member();

std::span<const Member> members() {
    static const std::vector<Member> all{gradient_member()};
    return all;
}

std::vector<options::Option> influence_options() {
    std::vector<std::string> names;
    std::string help;
    for (const auto& member : members()) {
        names.push_back(member.name);
        help += (help.empty() ? "" : ";\n") + member.name + ": " + member.help;
    }
    return {options::name_option({.name = "influence", .group = option_group, .value_name = "NAME", .help = help},
                                 &InfluenceSettings::member, names)};
}

std::unique_ptr<Influence> make_influence(const options::Values& values) {
    const auto& wanted = values.of<InfluenceSettings>().member;
    for (const auto& member : members())
        if (member.name == wanted) return member.make(values);
    throw Error(ExitCode::internal_error, {"--influence", "", "the name of a member", wanted, ""});
}

}  // namespace idistill::influence
