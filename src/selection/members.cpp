// The list of selections: a line each, and one that declares it.

#include "idistill/selection/members.hpp"

#include "idistill/base/error.hpp"
#include "idistill/selection/selector.hpp"
#include "idistill/selection/settings.hpp"

namespace idistill::selection {

Member weighted_member();
Member round_robin_member();
Member top_k_member();
Member random_member();
Member facility_location_member();
Member facility_location_mi_member();
Member facility_location_cg_member();

std::span<const Member> members() {
    static const std::vector<Member> all{weighted_member(),
                                         round_robin_member(),
                                         top_k_member(),
                                         random_member(),
                                         facility_location_member(),
                                         facility_location_mi_member(),
                                         facility_location_cg_member()};
    return all;
}

const Member& chosen_by(const options::Values& meant) {
    const auto& wanted = meant.of<SelectionSettings>().member;
    for (const auto& member : members())
        if (member.name == wanted) return member;
    throw Error(ExitCode::internal_error, {"--selection", "", "the name of a member", wanted, ""});
}

std::unique_ptr<Selector> make_selector(const options::Values& meant) { return chosen_by(meant).make(meant); }

void look_at_files(options::Values& meant) {
    if (const auto look = chosen_by(meant).look_at_files; look != nullptr) look(meant);
}

}  // namespace idistill::selection
