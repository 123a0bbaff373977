// The list of propagations: a line each, and one that declares it.

#include "idistill/propagation/members.hpp"

#include "idistill/propagation/propagation.hpp"
#include "idistill/propagation/settings.hpp"

namespace idistill::propagation {

Member kernel_ridge_member();
Member network_member();

std::span<const Member> members() {
    static const std::vector<Member> all{kernel_ridge_member(), network_member()};
    return all;
}

std::unique_ptr<Propagation> make_propagation(const options::Values& values) {
    const auto& wanted = values.of<PropagationSettings>().member;
    for (const auto& member : members())
        if (member.name == wanted) return member.make(values);
    return nullptr;
}

}  // namespace idistill::propagation
